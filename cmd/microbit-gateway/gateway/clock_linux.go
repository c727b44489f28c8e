package gateway

import (
	"crypto/rand"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// SystemClock is the clock of the kernel. What sets it says so there: systemd's
// timesyncd, chrony with rtcsync as Debian has it, ntpd.
var SystemClock Clock = systemClock{}

type systemClock struct{}

func (systemClock) Now() time.Time { return time.Now() }

func (systemClock) Set() bool {
	var t unix.Timex // no modes: it is read
	_, err := unix.Adjtimex(&t)
	return err == nil && t.Status&unsynchronized == 0
}

// unsynchronized is STA_UNSYNC of adjtimex(2).
const unsynchronized = 0x40

var bootID = sync.OnceValue(func() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil { // then it is known of this process alone
		return rand.Text()
	}
	return strings.TrimSpace(string(id))
})

func (systemClock) Boot() (string, time.Duration) {
	var ago unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ago); err != nil {
		return bootID(), 0
	}
	return bootID(), time.Duration(ago.Nano())
}
