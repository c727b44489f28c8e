package gateway

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/telemesh/telemesh/internal/microbit"
)

// Main runs the command with the arguments of the process, and gives its exit
// code.
func Main(clock Clock) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := root(clock).ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintf(os.Stderr, "telemesh-microbit: %v\n", err)
	if h := (hinted{}); errors.As(err, &h) {
		fmt.Fprintf(os.Stderr, "hint: %s\n", h.hint)
	}
	return 1
}

// hinted is an error with what to do about it.
type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }

// config is what the flags say.
type config struct {
	ingest, tokenFile string
	name              string            // of this gateway
	ids               map[string]string // of devices that are called otherwise in the mesh
	spool, keep       string
	maxBytes          int64
	batch             int
	linger            time.Duration
	trustClock        bool
	retry, lastRetry  time.Duration // between attempts to send: it doubles from the one to the other, with jitter

	ble    microbit.Config // run
	record string
	speed  float64 // replay
}

// source is the CloudEvents source of this gateway's events.
func (c config) source() string { return "/microbit-gateway/" + url.PathEscape(c.name) }

// deviceID is what the mesh calls a device.
func (c config) deviceID(device string) string {
	return cmp.Or(c.ids[strings.ToUpper(device)], device)
}

func root(clock Clock) *cobra.Command {
	cfg := config{retry: time.Second, lastRetry: 2 * time.Minute}
	cmd := &cobra.Command{
		Use:   "telemesh-microbit",
		Short: "Reads BBC micro:bits by Bluetooth, for a Telemesh",
		Long: `Reads BBC micro:bits by Bluetooth Low Energy and sends what they measure to an
ingest endpoint. What it could not send yet is kept on disk, and sent later with
the time when it was measured.

Each flag can be given as a variable of the environment, too: --token-file as
TELEMESH_MICROBIT_TOKEN_FILE.`,
		Example: `  telemesh-microbit scan
  telemesh-microbit pair zuvig
  telemesh-microbit run --ingest https://ingest.example.org/ --token-file token --device zuvig=desk-1
  telemesh-microbit replay frames.ndjson --ingest http://127.0.0.1:8082/`,
		Version:       version(),
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return fromEnvironment(cmd.Flags())
		},
	}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return hinted{err, fmt.Sprintf("see `%s --help`", cmd.CommandPath())}
	})
	cmd.CompletionOptions.HiddenDefaultCmd = true
	cmd.AddCommand(scanCommand(&cfg), pairCommand(&cfg), runCommand(&cfg, clock), replayCommand(&cfg, clock))
	return cmd
}

// fromEnvironment sets flags that are not given by their variables.
func fromEnvironment(flags *pflag.FlagSet) (err error) {
	flags.VisitAll(func(f *pflag.Flag) {
		variable := "TELEMESH_MICROBIT_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		value, ok := os.LookupEnv(variable)
		if !ok || value == "" || f.Changed {
			return
		}
		if bad := flags.Set(f.Name, value); bad != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", variable, bad))
		}
	})
	return err
}

func (c *config) adapterFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&c.ble.Adapter, "adapter", "hci0", "Bluetooth adapter")
}

func (c *config) sendFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&c.ingest, "ingest", "http://127.0.0.1:8082/", "address of the ingest endpoint")
	f.StringVar(&c.tokenFile, "token-file", "", "file with the token that ingest knows this gateway by")
	f.StringVar(&c.name, "name", hostname(), "name of this gateway: its events have the source /microbit-gateway/NAME")
	f.StringSlice("device", nil, "a micro:bit, by its address or its name, as ADDRESS=ID where the mesh calls it otherwise; several are repeated or separated by commas")
	f.StringVar(&c.spool, "spool", stateFolder(), "folder that keeps what is not sent yet")
	f.StringVar(&c.keep, "keep", "newest", "what a full spool keeps: newest drops the oldest readings, oldest takes no new ones")
	f.Int64Var(&c.maxBytes, "max-bytes", 64<<20, "bytes of readings that the spool keeps; one takes about 140")
	f.IntVar(&c.batch, "batch", 500, "readings of a request, at most")
	f.DurationVar(&c.linger, "linger", time.Second, "how long a reading waits for others of its request")
	f.BoolVar(&c.trustClock, "trust-clock", false, "take the clock of this machine as it is, also when no time server has set it")
}

// complete checks the flags of sendFlags.
func (c *config) complete(cmd *cobra.Command) error {
	devices, err := cmd.Flags().GetStringSlice("device")
	if err != nil {
		return err
	}
	c.ids, c.ble.Devices = map[string]string{}, nil
	of := map[string]string{} // by ID
	for _, d := range devices {
		called, id, _ := strings.Cut(d, "=")
		called, id = strings.TrimSpace(called), strings.TrimSpace(id)
		c.ble.Devices = append(c.ble.Devices, called)
		if id == "" {
			continue
		}
		if other, ok := of[id]; ok {
			return fmt.Errorf("--device: %s and %s are both %s: nobody could tell their readings apart", other, called, id)
		}
		of[id], c.ids[strings.ToUpper(called)] = called, id
	}
	switch {
	case c.batch < 1:
		return fmt.Errorf("--batch is %d: it has to be at least 1", c.batch)
	case c.linger < 0:
		return fmt.Errorf("--linger is %s: it cannot be negative", c.linger)
	case c.spool == "":
		return hinted{errors.New("there is no folder for what is not sent yet"), "name one with --spool"}
	}
	return nil
}

func scanCommand(c *config) *cobra.Command {
	var during time.Duration
	cmd := &cobra.Command{
		Use:   "scan",
		Short: "Show the micro:bits that are near",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), during)
			defer cancel()
			out := tabwriter.NewWriter(cmd.OutOrStdout(), 19, 0, 2, ' ', 0)
			found := 0
			err := microbit.Scan(ctx, c.ble.Adapter, func(f microbit.Found) {
				found++
				paired := "not paired"
				if f.Paired {
					paired = "paired"
				}
				fmt.Fprintf(out, "%s\t%s\t%d dBm\t%s\n", f.Address, f.Name, f.RSSI, paired)
				out.Flush()
			})
			if err == nil && found == 0 {
				return hinted{fmt.Errorf("no micro:bit was seen in %s", during), "is its program one with Bluetooth, and no other machine connected to it? See docs/microbit.md"}
			}
			return err
		},
	}
	c.adapterFlag(cmd)
	cmd.Flags().DurationVar(&during, "for", 10*time.Second, "how long to look")
	return cmd
}

func pairCommand(c *config) *cobra.Command {
	var during time.Duration
	var again bool
	cmd := &cobra.Command{
		Use:   "pair DEVICE",
		Short: "Pair a micro:bit, which is in its pairing mode",
		Long: `Pairs a micro:bit, by its address or its name (the five letters in its brackets).
It has to be in its pairing mode: hold A and B, press and release reset, and wait
for the Bluetooth symbol. If it shows six digits, they are asked for here.`,
		Args: exactly("DEVICE, as scan shows it"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), during)
			defer cancel()
			if again {
				if err := microbit.Remove(ctx, c.ble.Adapter, args[0]); err != nil {
					return err
				}
			}
			err := microbit.Pair(ctx, c.ble.Adapter, args[0], func(ctx context.Context) (uint32, error) {
				fmt.Fprint(cmd.OutOrStdout(), "six digits that it shows: ")
				read := make(chan string, 1)
				go func() {
					line, _ := bufio.NewReader(cmd.InOrStdin()).ReadString('\n') // without one it is no number
					read <- line
				}()
				select {
				case line := <-read:
					key, err := strconv.ParseUint(strings.TrimSpace(line), 10, 32) // 012345 is decimal, too
					return uint32(key), err
				case <-ctx.Done(): // the goroutine ends with the program
					return 0, ctx.Err()
				}
			})
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is paired: press its reset\n", args[0])
			return nil
		},
	}
	c.adapterFlag(cmd)
	cmd.Flags().DurationVar(&during, "for", time.Minute, "how long to try")
	cmd.Flags().BoolVar(&again, "again", false, "forget its pairing first, as after it was flashed anew")
	return cmd
}

func runCommand(c *config, clock Clock) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Read micro:bits and send what they measure, until it is interrupted",
		Long: `Connects to the micro:bits of --device, or to all that are paired, keeps them
connected, and sends what they measure. What a micro:bit measures is up to the
Bluetooth services that its program starts.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.complete(cmd); err != nil {
				return err
			}
			return run(cmd.Context(), *c, clock, logger())
		},
	}
	c.adapterFlag(cmd)
	c.sendFlags(cmd)
	f := cmd.Flags()
	f.DurationVar(&c.ble.Temperature, "temperature", 10*time.Second, "period of the temperature, up to 65.535s; 0: none")
	f.DurationVar(&c.ble.Accelerometer, "accelerometer", 0, "period of the accelerometer: 1, 2, 5, 10, 20, 80, 160 or 640ms; 0: none")
	f.BoolVar(&c.ble.Buttons, "buttons", true, "tell when buttons are pressed")
	f.BoolVar(&c.ble.UART, "uart", true, "take the texts that its program writes, and write ping# to it on connecting and disconnecting")
	f.StringVar(&c.record, "record", "", "file to which frames are added, for replay")
	return cmd
}

func replayCommand(c *config, clock Clock) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "replay FILE",
		Short: "Send the frames of a file, as run --record writes it",
		Long: `Sends the frames of a file with the times that they have there, and returns when
ingest has taken all. Sent again they add nothing: each is the same reading. After
a kill the same command goes on where it was.`,
		Args: exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("spool") && c.spool != "" {
				c.spool = filepath.Join(c.spool, "replay") // a gateway that runs has the other
			}
			if err := c.complete(cmd); err != nil {
				return err
			}
			if c.speed < 0 {
				return fmt.Errorf("--speed is %g: it cannot be negative", c.speed)
			}
			n, err := replay(cmd.Context(), *c, clock, logger(), args[0])
			if err == nil {
				fmt.Fprintf(cmd.OutOrStdout(), "%d frames of %s are sent\n", n, args[0])
			}
			return err
		},
	}
	c.sendFlags(cmd)
	cmd.Flags().Float64Var(&c.speed, "speed", 0, "times as fast as they came; 0: at once")
	return cmd
}

func exactly(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return hinted{fmt.Errorf("`%s` takes %s", cmd.CommandPath(), what), fmt.Sprintf("see `%s --help`", cmd.CommandPath())}
		}
		return nil
	}
}

// logger writes to the journal of systemd, which has the time.
func logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey && len(groups) == 0 && os.Getenv("JOURNAL_STREAM") != "" {
			return slog.Attr{}
		}
		return a
	}}))
}

func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "unnamed"
	}
	return name
}

// stateFolder is where the XDG Base Directory Specification has what a program
// keeps; empty: there is no home.
func stateFolder() string {
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "telemesh-microbit")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	return filepath.Join(home, ".local", "state", "telemesh-microbit")
}

func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version
}
