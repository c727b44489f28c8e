package tenancy_test

import (
	"bytes"
	"fmt"
	"iter"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/tenancy"
)

// The index at its full size: a million devices with names of 16 bytes as
// LoRaWAN has them, each at four of a thousand tenants.
const (
	manyDevices = 1_000_000
	moves       = 4
	day         = mesh.Instant(86400e6)
	year        = 365 * day
)

func deviceName(b []byte, i int) []byte { return fmt.Appendf(b, "70b3d57ed0%06x", i) }

func many(devices int) iter.Seq2[mesh.Assignment, error] {
	return func(yield func(mesh.Assignment, error) bool) {
		tenants := make([]string, 1000)
		for i := range tenants {
			tenants[i] = fmt.Sprint("tenant-", i)
		}
		for d := range devices {
			device := string(deviceName(nil, d))
			for i := range moves {
				a := mesh.Assignment{DeviceID: device, TenantID: tenants[(d+i)%1000], ValidFrom: mesh.Instant(i) * year, Version: int64(1 + d*moves + i)}
				if i < moves-1 {
					to := a.ValidFrom + year - day // a gap
					a.ValidTo = &to
				}
				if !yield(a, nil) {
					return
				}
			}
		}
	}
}

func manyIndex(t testing.TB, devices int) *tenancy.Index {
	t.Helper()
	x, err := tenancy.Collect(many(devices), int64(devices*moves))
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// What an index takes is measured as what the heap has more while it is held,
// after a collection: names, tenants and hash included. A tenth of the devices
// is taken; their hash is less full than that of all, which take less each.
func TestIndexIsSmall(t *testing.T) {
	const devices, most = manyDevices / 10, 64
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC() // the first one may end before what was freed last is swept
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	x := manyIndex(t, devices)
	took := heap() - before
	if per := float64(took) / (devices * moves); per > most || per < 32 {
		t.Errorf("%.1f bytes per interval, want at most %d", per, most)
	} else {
		t.Logf("%.1f bytes per interval", per)
	}
	device := string(deviceName(nil, 77))
	if n := testing.AllocsPerRun(100, func() {
		if tenant, version := x.At(device, 3*year); tenant != "tenant-80" || version != 77*moves+4 {
			t.Fatal(tenant, version)
		}
		x.At("unknown", 0)
	}); n > 0 {
		t.Errorf("%v allocations per lookup, want none", n)
	}
	runtime.KeepAlive(x)
}

// BenchmarkAt looks devices of a million up, each at a random instant of its
// four intervals and the gaps between: of all of them at random, where no lookup
// finds in the cache what it needs, and of a thousand that report most. The names
// were made beforehand, in the order of the lookups, as those of an event stand
// one behind the other. "memory" is the limit: one read at a random place of as
// much memory, which the next read has to wait for.
func BenchmarkAt(b *testing.B) {
	x := manyIndex(b, manyDevices)
	const n = 1 << 20
	for name, devices := range map[string]int{"all": manyDevices, "thousand": 1000} {
		b.Run(name, func(b *testing.B) {
			random := rand.New(rand.NewPCG(1, 2))
			names := make([]byte, 0, 16*n)
			instants := make([]mesh.Instant, n)
			for i := range n {
				names = deviceName(names, random.IntN(devices)*(manyDevices/devices))
				instants[i] = mesh.Instant(random.Int64N(int64(moves * year)))
			}
			all := string(names)
			b.ReportAllocs()
			found := 0
			for i := 0; b.Loop(); i++ {
				k := i % n
				if tenant, _ := x.At(all[16*k:16*k+16], instants[k]); tenant != "" {
					found++
				}
			}
			if b.N > 100 && found < b.N/2 {
				b.Fatalf("%d of %d found", found, b.N)
			}
		})
	}
	b.Run("memory", func(b *testing.B) {
		// A random cycle through all places (Sattolo).
		next := make([]uint32, 160<<20/4)
		for i := range next {
			next[i] = uint32(i)
		}
		random := rand.New(rand.NewPCG(1, 2))
		for i := len(next) - 1; i > 0; i-- {
			j := random.IntN(i)
			next[i], next[j] = next[j], next[i]
		}
		at := uint32(0)
		for b.Loop() {
			at = next[at]
		}
	})
}

// BenchmarkNewIndex builds an index of a slice that is in order.
func BenchmarkNewIndex(b *testing.B) {
	var held []mesh.Assignment
	for a := range many(manyDevices) {
		held = append(held, a)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tenancy.NewIndex(held, 1); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLines reads what assignment-port serves, as a cold start does.
func BenchmarkLines(b *testing.B) {
	const devices = manyDevices / 10
	var text []byte
	for a := range many(devices) {
		text = tenancy.AppendLine(text, &a)
	}
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if x, err := tenancy.Read(bytes.NewReader(text), 1); err != nil || x.Version() != 1 {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/(devices*moves), "ns/interval")
}

// BenchmarkWith changes ten devices of a million.
func BenchmarkWith(b *testing.B) {
	x := manyIndex(b, manyDevices)
	var changed []mesh.Assignment
	for i := range 10 {
		changed = append(changed, mesh.Assignment{DeviceID: string(deviceName(nil, i*1000)), TenantID: "new", Version: 5e6})
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := x.With(changed, 5e6); err != nil {
			b.Fatal(err)
		}
	}
}
