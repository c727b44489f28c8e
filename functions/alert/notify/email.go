package notify

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/wneessen/go-mail"
)

// mailer sends e-mails by an SMTP server.
type mailer struct {
	host    string
	options []mail.Option
	from    string
	domain  string // of Message-IDs
	portal  string
}

// newMailer reads SMTP_URL:
//
//	smtp://USER:PASSWORD@HOST:587    TLS by STARTTLS, without which nothing is sent
//	smtps://USER:PASSWORD@HOST:465   TLS from the start
//
// Without USER nobody logs in. ?tls=none sends without TLS, for a server of one's own
// network, to which no password is told; ?ca=FILE trusts certificates of that authority, too.
func newMailer(cfg Config) (*mailer, error) {
	wrong := func(what string) error {
		return fmt.Errorf("SMTP_URL: %s: want smtp://USER:PASSWORD@HOST:587 or smtps://USER:PASSWORD@HOST:465", what) // without its password
	}
	if cfg.SMTP == "" {
		return nil, wrong("it is empty, and a route has e-mail")
	}
	u, err := url.Parse(cfg.SMTP)
	if err != nil || u.Hostname() == "" || u.Scheme != "smtp" && u.Scheme != "smtps" || strings.Trim(u.Path, "/") != "" {
		return nil, wrong("it cannot be read")
	}
	if err := checkAddress("MAIL_FROM", cfg.From); err != nil {
		return nil, err
	}
	_, domain, _ := strings.Cut(cfg.From, "@")
	m := &mailer{host: u.Hostname(), from: cfg.From, domain: domain, portal: cfg.Portal}
	query := u.Query()
	config := &tls.Config{ServerName: m.host, MinVersion: tls.VersionTLS12}
	if file := query.Get("ca"); file != "" {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("SMTP_URL: ca: %w", err)
		}
		if config.RootCAs, err = x509.SystemCertPool(); err != nil {
			config.RootCAs = x509.NewCertPool()
		}
		if !config.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("SMTP_URL: ca: %s has no certificate in PEM", file)
		}
	}
	port := 587
	m.options = []mail.Option{mail.WithTimeout(cfg.Timeout), mail.WithTLSConfig(config), mail.WithoutNoop()}
	switch how := query.Get("tls"); {
	case u.Scheme == "smtps" && how == "":
		port = 465
		m.options = append(m.options, mail.WithSSL())
	case u.Scheme == "smtp" && (how == "" || how == "starttls"):
		m.options = append(m.options, mail.WithTLSPolicy(mail.TLSMandatory))
	case u.Scheme == "smtp" && how == "none":
		if u.User != nil {
			return nil, wrong("with tls=none its password would be readable on the way")
		}
		m.options = append(m.options, mail.WithTLSPolicy(mail.NoTLS))
	default:
		return nil, wrong(fmt.Sprintf("tls=%s is not starttls or none, of smtp://", how))
	}
	if u.Port() != "" {
		if port, err = strconv.Atoi(u.Port()); err != nil {
			return nil, wrong("its port is no number")
		}
	}
	m.options = append(m.options, mail.WithPort(port))
	if u.User != nil {
		password, _ := u.User.Password()
		m.options = append(m.options, mail.WithSMTPAuth(mail.SMTPAuthAutoDiscover), mail.WithUsername(u.User.Username()), mail.WithPassword(password))
	}
	if _, err := mail.NewClient(m.host, m.options...); err != nil {
		return nil, wrong(err.Error())
	}
	return m, nil
}

// send sends a message to one address.
func (m *mailer) send(ctx context.Context, to string, zone *time.Location, id string, msg *message, created time.Time) error {
	e := mail.NewMsg(mail.WithNoDefaultUserAgent())
	if err := errors.Join(e.From(m.from), e.To(to)); err != nil {
		return refused{err}
	}
	e.Subject(msg.subject())
	e.SetMessageIDWithValue(id + "@" + m.domain)
	e.SetDateWithValue(created.UTC())
	e.SetGenHeader("Auto-Submitted", "auto-generated") // RFC 3834: no answers of who is away
	// What is said of one alert is one conversation.
	e.SetGenHeader("References", "<"+msg.Data.Alert+"@"+m.domain+">")
	e.SetBodyString(mail.TypeTextPlain, strings.Join(msg.body(zone, m.portal), "\n")+"\n")
	client, err := mail.NewClient(m.host, m.options...)
	if err != nil {
		return err
	}
	if err := client.DialWithContext(ctx); err != nil {
		return err // of the server, not of the message: somebody sees to it
	}
	err = client.Send(e)
	if e.IsDelivered() { // what the server says after that is no part of it
		err = nil
	}
	client.Close()
	var why *mail.SendError
	if errors.As(err, &why) && why.ErrorCode() >= 500 && why.ErrorCode() < 600 {
		return refused{err}
	}
	return err
}
