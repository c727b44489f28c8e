package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"cloud.google.com/go/auth"
	"cloud.google.com/go/auth/credentials"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/option"
	"google.golang.org/api/sheets/v4"

	"github.com/telemesh/telemesh/internal/sheet"
)

// client asks the Google Sheets API, v4.
type client struct {
	service *sheets.Service
	account string // whom a spreadsheet has to be shared with
	// wait is how a request that was refused waits for the next one.
	wait func(ctx context.Context, d time.Duration) error
}

// newClient makes a client with the Application Default Credentials: the
// service account that GOOGLE_APPLICATION_CREDENTIALS names, or the workload's
// identity.
func newClient(endpoint string) (*client, error) {
	found, err := credentials.DetectDefault(&credentials.DetectOptions{Scopes: []string{sheets.SpreadsheetsReadonlyScope}})
	if err != nil {
		return nil, fmt.Errorf("credentials for Google Sheets: %w", err)
	}
	options := []option.ClientOption{option.WithAuthCredentials(found)}
	if endpoint != "" {
		options = append(options, option.WithEndpoint(endpoint))
	}
	service, err := sheets.NewService(context.Background(), options...)
	if err != nil {
		return nil, fmt.Errorf("credentials for Google Sheets: %w", err)
	}
	account := struct {
		Email string `json:"client_email"`
	}{}
	// Those of a workload have no file.
	if err := json.Unmarshal(found.JSON(), &account); err != nil || account.Email == "" {
		return &client{service, "the service account", wait}, nil
	}
	return &client{service, "the service account " + account.Email, wait}, nil
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// A request that meets a full quota (300 reads a minute and project, 60 a minute
// and user) or a service in trouble is made again after these times, or later if
// the answer says so. A quota is full again after a minute at most, when the
// next tick comes.
// https://developers.google.com/workspace/sheets/api/limits
var backoff = [...]time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second}

// do makes a request until it is answered, or refused for good.
func do[T any](ctx context.Context, c *client, request func(...googleapi.CallOption) (T, error)) (T, error) {
	for attempt := 0; ; attempt++ {
		answer, err := request()
		if err == nil || lasts(err) || attempt == len(backoff) || ctx.Err() != nil {
			return answer, err
		}
		d := backoff[attempt]
		if refusal := (*googleapi.Error)(nil); errors.As(err, &refusal) {
			d = max(d, sheet.RetryAfter(refusal.Header))
		}
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < d {
			return answer, err
		}
		if waiting := c.wait(ctx, d); waiting != nil {
			return answer, err
		}
	}
}

// refused marks an error that lasts, and says in a line what to do about it.
func (c *client) refused(err error) error {
	if !lasts(err) {
		return err
	}
	// The body of the answer is many lines of JSON.
	answer := (*googleapi.Error)(nil)
	if !errors.As(err, &answer) {
		return sheet.Faultf("%w: see to the key of %s (GOOGLE_APPLICATION_CREDENTIALS)", err, c.account)
	}
	hint := ""
	switch {
	case answer.Message == notShared:
		hint = ": share the spreadsheet with " + c.account
	case answer.Code == http.StatusForbidden:
		hint = ": see to what " + c.account + " may do in its project"
	case answer.Code == http.StatusUnauthorized:
		hint = ": see to the key of " + c.account + " (GOOGLE_APPLICATION_CREDENTIALS)"
	}
	return sheet.Faultf("status %d: %s%s", answer.Code, strings.TrimSuffix(answer.Message, "."), hint)
}

// notShared is the message of one of several refusals with 403; another is that
// the project may not use the API.
const notShared = "The caller does not have permission"

// lasts says whether a request will be refused until somebody does something:
// 4xx, of the API or of who gives the tokens, but for too many requests, which
// Google's older interfaces answer with 403.
func lasts(err error) bool {
	status := 0
	if answer := (*googleapi.Error)(nil); errors.As(err, &answer) {
		status = answer.Code
		for _, item := range answer.Errors {
			switch item.Reason {
			case "rateLimitExceeded", "userRateLimitExceeded", "quotaExceeded":
				return false
			}
		}
	} else if token := (*auth.Error)(nil); errors.As(err, &token) && token.Response != nil {
		status = token.Response.StatusCode
	}
	return status >= 400 && status < 500 && status != http.StatusRequestTimeout && status != http.StatusTooManyRequests
}

// spreadsheet is a sheet of a Google spreadsheet, or a range of it.
type spreadsheet struct {
	*client
	at    string // as it is configured
	id    string
	title string // of the sheet; empty: the first
	area  area
	page  int // rows that one request asks for
}

// pageRows of 9 columns are about 1 MB of JSON, where answers of up to 2 MB are
// recommended.
// https://developers.google.com/workspace/sheets/api/limits
const pageRows = 10_000

// newSpreadsheet reads SPREADSHEET_ID, SPREADSHEET_ID/Sheet name or
// SPREADSHEET_ID/Sheet name!A:I.
func newSpreadsheet(at, of string) (*spreadsheet, error) {
	id, in, _ := strings.Cut(of, "/")
	s := &spreadsheet{at: at, id: id, title: in, page: pageRows}
	if !spreadsheetID.MatchString(id) {
		return nil, fmt.Errorf("%q: %q is not the id of a spreadsheet: it is the part of its address behind /d/", at, id)
	}
	if i := strings.LastIndexByte(in, '!'); i >= 0 {
		area, err := parseArea(in[i+1:])
		if err != nil {
			return nil, fmt.Errorf("%q: %w", at, err)
		}
		s.title, s.area = in[:i], area
	}
	if n := len(s.title); n > 1 && s.title[0] == '\'' && s.title[n-1] == '\'' { // as A1 notation quotes it
		s.title = strings.ReplaceAll(s.title[1:n-1], "''", "'")
	}
	return s, nil
}

// editPage is the address that a browser shows of a spreadsheet. Others of
// docs.google.com give CSV: …/export?format=csv, …/d/e/…/pub?output=csv.
var editPage = regexp.MustCompile(`^https?://docs\.google\.com/spreadsheets/(?:u/[0-9]+/)?d/([A-Za-z0-9_-]{2,})/?(?:(?:edit|view|preview|htmlview)\b.*)?$`)

var spreadsheetID = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// area is a range in A1 notation. What is 0 is open.
type area struct{ left, top, right, bottom int }

var areas = regexp.MustCompile(`^([A-Z]{1,3})?([1-9][0-9]{0,7})?:([A-Z]{1,3})?([1-9][0-9]{0,7})?$`)

func parseArea(s string) (area, error) {
	m := areas.FindStringSubmatch(strings.ToUpper(s))
	if m == nil || m[1]+m[2] == "" || m[3]+m[4] == "" {
		return area{}, fmt.Errorf("%q is not a range, such as A:I or A3:I500", s)
	}
	number := func(s string) int { n, _ := strconv.Atoi(s); return n } // 0 where there is none
	return area{columnNumber(m[1]), number(m[2]), columnNumber(m[3]), number(m[4])}, nil
}

func columnNumber(letters string) (n int) {
	for _, letter := range letters {
		n = n*26 + int(letter-'A') + 1
	}
	return n
}

func columnLetters(n int) (letters string) {
	for ; n > 0; n = (n - 1) / 26 {
		letters = string(rune('A'+(n-1)%26)) + letters
	}
	return letters
}

func (s *spreadsheet) name() string { return s.at }

// readAgain is how often a sheet that is being edited is read again at once.
const readAgain = 3

func (s *spreadsheet) read(ctx context.Context) (sheet.Grid, error) {
	for range readAgain {
		grid, err := s.readOnce(ctx)
		if !errors.Is(err, errMoved) {
			return grid, err
		}
	}
	return sheet.Grid{}, errMoved
}

// errMoved says that rows were put in or taken out while the sheet was read in
// pieces.
var errMoved = errors.New("the sheet is being edited: its rows moved while it was read")

// readOnce reads the sheet in pages of rows. Each begins with the row that the
// one before ended with: if it is another one by now, rows have moved, and one
// may have been missed, which would look as if it had been taken out.
func (s *spreadsheet) readOnce(ctx context.Context) (sheet.Grid, error) {
	// The properties are asked for each time: a sheet may get more rows, a range
	// beyond the last of which is refused, and its zone may be changed.
	about, properties, err := s.properties(ctx)
	if err != nil {
		return sheet.Grid{}, err
	}
	grid := sheet.Grid{Name: s.at, Locale: about.Locale}
	if grid.Zone, err = zoneOf(about.TimeZone); err != nil {
		return sheet.Grid{}, sheet.Fault{Err: err}
	}
	size := properties.GridProperties
	left, right := max(s.area.left, 1), orLast(s.area.right, int(size.ColumnCount))
	top, bottom := max(s.area.top, 1), orLast(s.area.bottom, int(size.RowCount))
	if left > right || top > bottom {
		return sheet.Grid{}, sheet.Faultf("the range is outside of the sheet, which has %d rows and %d columns", size.RowCount, size.ColumnCount)
	}
	title := strings.ReplaceAll(properties.Title, "'", "''")
	var last []any // of the page before
	for first := top; ; {
		end := min(first+s.page-1, bottom)
		a1 := fmt.Sprintf("'%s'!%s%d:%s%d", title, columnLetters(left), first, columnLetters(right), end)
		page, err := do(ctx, s.client, s.service.Spreadsheets.Values.Get(s.id, a1).Context(ctx).
			MajorDimension("ROWS").ValueRenderOption("UNFORMATTED_VALUE").DateTimeRenderOption("SERIAL_NUMBER").Fields("values").Do)
		if answer := (*googleapi.Error)(nil); errors.As(err, &answer) && answer.Code == http.StatusBadRequest {
			return sheet.Grid{}, fmt.Errorf("%w: %s", errMoved, answer.Message) // the sheet has got smaller
		}
		if err != nil {
			return sheet.Grid{}, s.refused(err)
		}
		// Empty rows at the end and empty cells at the end of a row are left out.
		row := func(i int) []any {
			if i < len(page.Values) {
				return page.Values[i]
			}
			return nil
		}
		skip := 0
		if first > top {
			skip = 1
			if !sameCells(row(0), last) {
				return sheet.Grid{}, errMoved
			}
		}
		for i := skip; i < len(page.Values); i++ {
			grid.Rows = append(grid.Rows, sheet.Row{Number: first + i, Cells: page.Values[i]})
		}
		if end == bottom {
			if s.area.bottom > 0 || row(end-first) == nil {
				return grid, nil
			}
			// Full to the last row: has it got more of them, and what was there moved
			// behind the end?
			_, now, err := s.properties(ctx)
			if err == nil && now.GridProperties.RowCount != size.RowCount {
				err = errMoved
			}
			return grid, err
		}
		last, first = row(end-first), end
	}
}

// properties gives those of the spreadsheet and of the sheet that is configured.
func (s *spreadsheet) properties(ctx context.Context) (*sheets.SpreadsheetProperties, *sheets.SheetProperties, error) {
	about, err := do(ctx, s.client, s.service.Spreadsheets.Get(s.id).Context(ctx).
		Fields("properties(locale,timeZone)", "sheets(properties(title,gridProperties(rowCount,columnCount)))").Do)
	if err != nil {
		return nil, nil, s.refused(err)
	}
	var titles []string
	for _, one := range about.Sheets {
		p := one.Properties
		if p.GridProperties == nil { // a chart on a sheet of its own has no grid
			continue
		}
		if s.title == "" || p.Title == s.title {
			return about.Properties, p, nil
		}
		titles = append(titles, strconv.Quote(p.Title))
	}
	return nil, nil, sheet.Faultf("no sheet %q: there are %s", s.title, strings.Join(titles, ", "))
}

func orLast(n, last int) int {
	if n == 0 {
		return last
	}
	return min(n, last)
}

// sameCells compares rows, in which "" is left out at the end as nil is.
func sameCells(a, b []any) bool {
	trim := func(cells []any) []any {
		for len(cells) > 0 && (cells[len(cells)-1] == nil || cells[len(cells)-1] == "") {
			cells = cells[:len(cells)-1]
		}
		return cells
	}
	return slices.EqualFunc(trim(a), trim(b), func(a, b any) bool { return reflect.DeepEqual(a, b) })
}

var offsetZone = regexp.MustCompile(`^GMT([+-])(\d{2}):(\d{2})$`)

// zoneOf reads the zone of a spreadsheet: a CLDR name, or GMT-07:00 where it has
// none.
// https://developers.google.com/workspace/sheets/api/reference/rest/v4/spreadsheets#spreadsheetproperties
func zoneOf(name string) (*time.Location, error) {
	if m := offsetZone.FindStringSubmatch(name); m != nil {
		hours, _ := strconv.Atoi(m[2])
		minutes, _ := strconv.Atoi(m[3])
		seconds := (hours*60 + minutes) * 60
		if m[1] == "-" {
			seconds = -seconds
		}
		return time.FixedZone(name, seconds), nil
	}
	if name == "" {
		return nil, errors.New("the spreadsheet has no time zone: set one in its settings")
	}
	zone, err := time.LoadLocation(name)
	if err != nil {
		return nil, fmt.Errorf("time zone of the spreadsheet: %w", err)
	}
	return zone, nil
}
