package prove

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
)

// Write writes the report as text.
func (r *Report) Write(w io.Writer) error {
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(out, "made at %s", r.At)
	if r.Tenant != "" {
		fmt.Fprintf(out, " for tenant %s", r.Tenant)
	}
	fmt.Fprint(out, "\n\n")
	fmt.Fprintln(out, "\tROWS\tDIFFERENT\tCHECK\tSAYS")
	for _, c := range r.Checks {
		holds := "holds"
		if c.Different > 0 {
			holds = "FAILS"
		}
		fmt.Fprintf(out, "%s\t%d\t%d\t%s\t%s\n", holds, c.Rows, c.Different, c.Name, c.Says)
	}
	if err := out.Flush(); err != nil {
		return err
	}
	for _, c := range r.Checks {
		if c.Different == 0 {
			continue
		}
		fmt.Fprintf(w, "\n%s: %d rows differ", c.Name, c.Different)
		shown := c.Examples[:min(len(c.Examples), maxShown)]
		if int64(len(shown)) < c.Different {
			fmt.Fprintf(w, ", the first %d (proof.json of --report has the others)", len(shown))
		}
		fmt.Fprintln(w)
		for _, d := range shown {
			fmt.Fprintf(w, "  %s", d.Side)
			for _, name := range slices.Sorted(maps.Keys(d.Row)) {
				fmt.Fprintf(w, " %s=%s", name, d.Row[name])
			}
			fmt.Fprintln(w)
		}
	}
	if len(r.Relocations) > 0 {
		fmt.Fprintf(w, "\n%d relocations, with the rows of iot_telemetry.readings on both sides and their digests\n\n", len(r.Relocations))
		fmt.Fprintln(out, "DEVICE\tAT\tFROM\tROWS\tDIGEST\tTO\tROWS\tDIGEST")
		for _, m := range r.Relocations {
			fmt.Fprintf(out, "%s\t%s\t%s\t%d\t%.12s\t%s\t%d\t%.12s\n", m.DeviceID, m.At,
				nobody(m.From), m.Before.Rows, m.Before.Digest, nobody(m.To), m.After.Rows, m.After.Digest)
		}
		if err := out.Flush(); err != nil {
			return err
		}
	}
	verdict := "holds: every row is visible to the tenant that held its device then, and to no other"
	if !r.Holds {
		verdict = "DOES NOT HOLD"
	}
	_, err := fmt.Fprintf(w, "\n%s\n", verdict)
	return err
}

func nobody(tenant string) string {
	if tenant == "" {
		return "(nobody)"
	}
	return tenant
}
