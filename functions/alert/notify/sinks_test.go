package notify

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"mime"
	"net"
	"net/http"
	"net/http/httptest"
	"net/mail"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// hook is what a webhook got.
type hook struct {
	id, body string
	header   http.Header
}

// webhook is a receiver with faults.
type webhook struct {
	*httptest.Server
	mu     sync.Mutex
	got    []hook
	faults []func(http.ResponseWriter, *http.Request) // of the next requests; nil: 200
}

const secret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"

// serveHook verifies what it gets as a receiver does, by its path: /json is signed.
func serveHook(t *testing.T) *webhook {
	w := &webhook{}
	verifier, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	w.Server = httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("read a webhook's request: %v", err)
		}
		if strings.HasPrefix(r.URL.Path, "/json") {
			if err := verifier.VerifyIgnoringTimestamp(body, r.Header); err != nil {
				t.Errorf("signature: %v", err)
			}
		}
		w.mu.Lock()
		w.got = append(w.got, hook{r.Header.Get("webhook-id"), string(body), r.Header})
		var fault func(http.ResponseWriter, *http.Request)
		if len(w.faults) > 0 {
			fault, w.faults = w.faults[0], w.faults[1:]
		}
		w.mu.Unlock()
		if fault != nil {
			fault(out, r)
		}
	}))
	t.Cleanup(w.Close)
	return w
}

func (w *webhook) fail(faults ...func(http.ResponseWriter, *http.Request)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = append(w.faults, faults...)
}

func (w *webhook) taken() []hook {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]hook(nil), w.got...)
}

func answers(code int, header ...string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
		io.WriteString(w, "no, because")
	}
}

// reset takes a request, and ends the connection instead of answering.
func reset(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	conn.(*net.TCPConn).SetLinger(0)
	conn.Close()
}

// silent takes a request, and does not answer until who asks has gone.
func silent(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// letter is an e-mail that a server took.
type letter struct {
	to, id, subject, body, user, raw string
	tls                              bool
	header                           mail.Header
}

// post is an SMTP server with STARTTLS, a user, and faults.
type post struct {
	url     string // of a user who may send
	address string
	mu      sync.Mutex
	got     []letter
	faults  []error // of the next messages, after their data; nil: taken
	rcpt    error   // of all recipients
	drop    bool    // ends the connection after the next message's data, which it has taken
	dialogs int
}

const user, password = "telemesh", "p@ss word"

func servePost(t *testing.T) *post {
	p := &post{}
	certificate, ca := selfSigned(t)
	server := smtp.NewServer(p)
	server.Domain, server.TLSConfig = "localhost", &tls.Config{Certificates: []tls.Certificate{certificate}}
	server.ErrorLog = discard{}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Close()
		<-ended
	})
	p.address = listener.Addr().String()
	p.url = "smtp://" + user + ":p%40ss%20word@" + p.address + "?ca=" + ca
	return p
}

type discard struct{}

func (discard) Printf(string, ...any) {}
func (discard) Println(...any)        {}

// selfSigned makes a certificate of 127.0.0.1, and a file that trusts it.
func selfSigned(t *testing.T) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, file
}

func (p *post) NewSession(c *smtp.Conn) (smtp.Session, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dialogs++
	return &session{p: p, conn: c}, nil
}

type session struct {
	p        *post
	conn     *smtp.Conn
	user, to string
}

func (s *session) AuthMechanisms() []string { return []string{sasl.Plain} }

func (s *session) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, name, word string) error {
		if name != user || word != password {
			return smtp.ErrAuthFailed
		}
		s.user = name
		return nil
	}), nil
}

func (s *session) Mail(string, *smtp.MailOptions) error { return nil }

func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	s.to = to
	return s.p.rcpt
}

func (s *session) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	m, err := mail.ReadMessage(bytes.NewReader(raw))
	if err != nil {
		return err
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
	if err != nil {
		return err
	}
	body, err := decoded(m)
	if err != nil {
		return err
	}
	_, secure := s.conn.TLSConnectionState()
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	if len(s.p.faults) > 0 {
		fault := s.p.faults[0]
		s.p.faults = s.p.faults[1:]
		if fault != nil {
			return fault
		}
	}
	s.p.got = append(s.p.got, letter{s.to, m.Header.Get("Message-Id"), subject, body, s.user, string(raw), secure, m.Header})
	if s.p.drop {
		s.p.drop = false
		s.conn.Conn().Close()
		return errors.New("gone")
	}
	return nil
}

func (s *session) Reset()        { s.to = "" }
func (s *session) Logout() error { return nil }

func (p *post) taken() []letter {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]letter(nil), p.got...)
}

func (p *post) set(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}
