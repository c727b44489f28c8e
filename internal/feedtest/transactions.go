package feedtest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/telemesh/telemesh/internal/dataset"
)

// Transactions gives frames as blockchain.info sends them, and the size of each by its
// hash, as the rule transaction-size has it: one of each side of each threshold and,
// where the data set transactions is there, those of it. The first and the last are XL.
func Transactions(t testing.TB) (frames [][]byte, sizes map[string]string) {
	t.Helper()
	sizes = map[string]string{}
	made := func(size string, satoshi ...int64) {
		var out []map[string]any
		for _, value := range satoshi {
			out = append(out, map[string]any{"value": value, "addr": nil})
		}
		hash := fmt.Sprintf("%064x", len(frames))
		frame, err := json.Marshal(map[string]any{"op": "utx", "x": map[string]any{"hash": hash, "time": 1331300839 + len(frames), "out": out}})
		if err != nil {
			t.Fatal(err)
		}
		frames, sizes[hash] = append(frames, frame), size
	}
	made("XL", 1_000_000_000)
	made("L", 999_999_999)
	made("L", 60_000_000, 40_000_000)
	made("M", 99_999_999)
	made("M", 10_000_000)
	made("S", 9_999_999)
	made("S", 0)
	if folder, ok := dataset.Find(t, "transactions"); ok {
		// Sums of /x/out/*/value, by hand.
		for file, size := range map[string]string{
			"utx-2012-docs-f6c51463.json":     "XL", // 2 800 000 000
			"utx-2013-72851331.json":          "S",  // 2 000 000
			"utx-2015-b29a3346.json":          "L",  // 5 734 000 + 440 548 000
			"utx-2015-docs-0857b9de.json":     "M",  // 65 564 000
			"utx-2019-0faf1806-opreturn.json": "S",  // 62 822
			"utx-2022-7731b35a-taproot.json":  "S",  // 2 349
		} {
			frame, err := os.ReadFile(filepath.Join(folder, file))
			if err != nil {
				t.Fatal(err)
			}
			var read struct{ X struct{ Hash string } }
			if err := json.Unmarshal(frame, &read); err != nil || read.X.Hash == "" {
				t.Fatalf("%s: no hash, %v", file, err)
			}
			frames, sizes[read.X.Hash] = append(frames, frame), size
		}
	}
	made("XL", 1_000_000_000_000)
	return frames, sizes
}
