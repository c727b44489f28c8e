package notify

import (
	"errors"
	"fmt"
	"io"
	"net/mail"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // an image may have none

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"go.yaml.in/yaml/v3"

	"github.com/telemesh/telemesh/internal/mesh"
)

// Routes say who is told of which alerts.
type Routes []*Route

// Route tells the addresses of one webhook and of e-mails of some tenants' alerts.
type Route struct {
	Tenants  []string `yaml:"tenants"`  // absent: all
	Severity string   `yaml:"severity"` // from this one on, at least WARN; absent: ERROR
	Zone     string   `yaml:"zone"`     // of times in texts and of quiet hours, as Europe/Amsterdam; absent: UTC
	Webhook  *Webhook `yaml:"webhook"`
	Email    *Email   `yaml:"email"`
	Quiet    *Quiet   `yaml:"quiet"`

	severity int
	zone     *time.Location
}

// Webhook is an address that takes messages by HTTP POST.
type Webhook struct {
	URL string `yaml:"url"`
	// Format is slack, what incoming webhooks of Slack, Mattermost and Rocket.Chat take,
	// or json: signed, as https://www.standardwebhooks.com says.
	Format string `yaml:"format"`
	Secret string `yaml:"secret"` // of json: whsec_ and 24 to 64 bytes in base 64

	signer *standardwebhooks.Webhook
}

// Email are addresses that get a message each.
type Email struct {
	To []string `yaml:"to"`
}

// Quiet are hours in which nothing is sent: it is held back until they end.
type Quiet struct {
	From   string   `yaml:"from"`   // 20:00, of the route's zone
	To     string   `yaml:"to"`     // 07:00; not later than From: of the next day
	Days   []string `yaml:"days"`   // on which they begin: mon, tue, …; absent: all
	Unless string   `yaml:"unless"` // from this severity on alerts are sent nevertheless; absent: none is

	from, to int // minutes of the day
	days     [7]bool
	unless   int
}

// ReadRoutes reads the routes of a YAML text, strictly; private lets webhooks be on
// http and in private networks. Errors name the line.
func ReadRoutes(text string, private bool) (Routes, error) {
	decoder := yaml.NewDecoder(strings.NewReader(text))
	decoder.KnownFields(true)
	var routes Routes
	err := decoder.Decode(&routes)
	var nodes []yaml.Node
	if err == nil {
		err = yaml.Unmarshal([]byte(text), &nodes)
	}
	if err == nil && decoder.Decode(new(any)) == nil {
		err = errors.New("a second document behind ---: what is in it is not read")
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("ALERT_ROUTES: %s", yamlWords.Replace(err.Error()))
	}
	if len(routes) == 0 {
		return nil, errors.New("ALERT_ROUTES: no routes: leave it out where nobody is told")
	}
	for i, r := range routes {
		if r == nil {
			r = &Route{}
		}
		if err := r.check(private); err != nil {
			return nil, fmt.Errorf("ALERT_ROUTES: line %d: route %d: %w", nodes[i].Line, i+1, err)
		}
	}
	return routes, nil
}

var yamlWords = strings.NewReplacer("yaml: unmarshal errors:\n  ", "", "yaml: ", "", "\n  ", "; ", " in type notify.Route", " in a route", " in type notify.Webhook", " in webhook",
	" in type notify.Email", " in email", " in type notify.Quiet", " in quiet")

func (r *Route) check(private bool) (err error) {
	if r.severity, err = severity("severity", r.Severity, mesh.SeverityErrorNumber); err != nil {
		return err
	}
	if r.severity < mesh.SeverityWarnNumber {
		return fmt.Errorf("severity %s: an alert is of WARN at least; triggers/alert.yaml lets nothing less in", r.Severity)
	}
	r.zone = time.UTC
	if r.Zone != "" {
		if r.zone, err = time.LoadLocation(r.Zone); err != nil || r.zone == time.Local {
			return fmt.Errorf("zone %q is no time zone: give a name of the IANA database, as Europe/Amsterdam", r.Zone)
		}
	}
	if slices.Contains(r.Tenants, "") || r.Tenants != nil && len(r.Tenants) == 0 {
		return errors.New("tenants: an empty name is no tenant's; leave tenants out for all of them")
	}
	if r.Webhook == nil && r.Email == nil {
		return errors.New("neither webhook nor email: nobody is told")
	}
	if r.Webhook != nil {
		if err := r.Webhook.check(private); err != nil {
			return fmt.Errorf("webhook: %w", err)
		}
	}
	if r.Email != nil {
		if err := r.Email.check(); err != nil {
			return fmt.Errorf("email: %w", err)
		}
	}
	if r.Quiet != nil {
		if err := r.Quiet.check(); err != nil {
			return fmt.Errorf("quiet: %w", err)
		}
	}
	return nil
}

// severity gives the number of a severity, of none the one that is meant then.
func severity(field, name string, none int) (int, error) {
	if name == "" {
		return none, nil
	}
	number, ok := mesh.Severities[name]
	if !ok {
		return 0, fmt.Errorf("%s %q is none of TRACE, DEBUG, INFO, WARN, ERROR, FATAL, each also with 2, 3 or 4 behind it", field, name)
	}
	return number, nil
}

func (w *Webhook) check(private bool) (err error) {
	u, err := url.Parse(w.URL)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return errors.New("url: want https://…") // which may have a secret: it is not repeated
	}
	if u.Scheme == "http" && !private {
		return errors.New("url: http shows alerts to who is on the way: use https, or ALERT_ALLOW_PRIVATE=true for a network of your own")
	}
	switch w.Format {
	case "slack":
		if w.Secret != "" {
			return errors.New("secret: format slack is not signed, its url is the secret: leave it out")
		}
	case "json":
		if w.signer, err = standardwebhooks.NewWebhook(w.Secret); err != nil || !strings.HasPrefix(w.Secret, "whsec_") || len(w.Secret) < len("whsec_")+32 {
			return errors.New("secret: format json is signed with one: whsec_ and at least 24 bytes in base 64, as of `echo whsec_$(openssl rand -base64 24)`")
		}
	default:
		return fmt.Errorf("format %q is neither slack nor json", w.Format)
	}
	return nil
}

func (e *Email) check() error {
	if len(e.To) == 0 {
		return errors.New("to: nobody")
	}
	for _, to := range e.To {
		if err := checkAddress("to", to); err != nil {
			return err
		}
	}
	return nil
}

// checkAddress takes a bare address: a name before it is nothing that a server routes by.
func checkAddress(field, address string) error {
	if a, err := mail.ParseAddress(address); err != nil || a.Address != address {
		return fmt.Errorf("%s: %q is no e-mail address, as somebody@example.com", field, address)
	}
	return nil
}

var clock = regexp.MustCompile(`^([01]\d|2[0-3]):[0-5]\d$`)

func (q *Quiet) check() (err error) {
	for _, bound := range []struct {
		name, text string
		minutes    *int
	}{{"from", q.From, &q.from}, {"to", q.To, &q.to}} {
		if !clock.MatchString(bound.text) {
			return fmt.Errorf("%s %q is no time of the day: write \"20:00\", in quotes", bound.name, bound.text)
		}
		at, err := time.Parse("15:04", bound.text)
		if err != nil {
			return err
		}
		*bound.minutes = at.Hour()*60 + at.Minute()
	}
	if len(q.Days) == 0 {
		q.days = [7]bool{true, true, true, true, true, true, true}
	}
	for _, day := range q.Days {
		at := slices.Index([]string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}, day)
		if at < 0 {
			return fmt.Errorf("days: %q is none of mon, tue, wed, thu, fri, sat, sun", day)
		}
		q.days[at] = true
	}
	if q.from == q.to && q.days == [7]bool{true, true, true, true, true, true, true} {
		return errors.New("from is to, on all days: nothing would ever be sent")
	}
	q.unless, err = severity("unless", q.Unless, noSeverity)
	return err
}

// noSeverity is higher than all.
const noSeverity = 100

// until gives when what is of a severity may be sent: at once, or when the quiet hours
// that now is in, and those that begin before they end, are over.
func (r *Route) until(now time.Time, severity int) time.Time {
	q := r.Quiet
	if q == nil || severity >= q.unless {
		return now
	}
	at := now
	for range 8 { // days that may follow on one another; if all do, it is a week
		end, quiet := q.over(at.In(r.zone))
		if !quiet {
			break
		}
		at = end
	}
	return at
}

// over gives the end of the quiet hours that at is in. Those of yesterday may reach it.
func (q *Quiet) over(at time.Time) (time.Time, bool) {
	for back := range 2 {
		y, m, d := at.AddDate(0, 0, -back).Date()
		begin := time.Date(y, m, d, 0, q.from, 0, 0, at.Location())
		if !q.days[begin.Weekday()] {
			continue
		}
		if q.to <= q.from {
			d++
		}
		end := time.Date(y, m, d, 0, q.to, 0, 0, at.Location())
		if !at.Before(begin) && at.Before(end) {
			return end, true
		}
	}
	return at, false
}

// address is who is told: of a route with both, each by itself.
type address struct {
	*Route
	id string // hash of what follows
	to string // of e-mail; empty: the route's webhook
}

// addresses gives those that are told of a tenant's alerts. One that several routes have
// is told by the first of them.
func (rs Routes) addresses(tenant string) []address {
	var all []address
	add := func(a address) {
		if !slices.ContainsFunc(all, func(b address) bool { return a.id == b.id }) {
			all = append(all, a)
		}
	}
	for _, r := range rs {
		if r.Tenants != nil && !slices.Contains(r.Tenants, tenant) {
			continue
		}
		if r.Webhook != nil {
			add(address{r, mesh.Hash("webhook", r.Webhook.URL), ""})
		}
		if r.Email != nil {
			for _, to := range r.Email.To {
				add(address{r, mesh.Hash("email", to), to})
			}
		}
	}
	return all
}

// String names who is told, without what is secret of an address.
func (a address) String() string {
	if a.to != "" {
		return a.to
	}
	u, err := url.Parse(a.Webhook.URL)
	if err != nil {
		return "a webhook"
	}
	return "the webhook at " + u.Host
}
