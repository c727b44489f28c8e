package device

import (
	"bytes"
	"errors"
	"fmt"
	"mime"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // zones are named by messages; function images have no database
)

// choose finds the reader by what is said about the payload; none: it has to be
// told by the shape, of JSON alone where jsonOnly.
func (p *Parser) choose() (jsonOnly bool, err error) {
	m := p.m
	if m.Format != "" {
		for _, r := range [...]*reader{&plain, &topicValue} {
			if r.format == m.Format {
				p.reader = r
				return false, nil
			}
		}
		for _, r := range p.readers {
			if r.format == m.Format {
				p.reader = r
				return false, nil
			}
		}
		return false, fmt.Errorf("no reader for the format %s", quote(m.Format))
	}
	media, generic, jsonOnly := mediaOf(m.ContentType)
	if !generic && !jsonOnly || strings.HasSuffix(media, "+json") {
		for _, r := range p.readers {
			if slices.Contains(r.media, media) {
				p.reader = r
				return false, nil
			}
		}
	}
	if len(m.Attributes) > 0 {
		p.reader, err = p.only(func(r *reader) bool { return r.sent != nil && r.sent(m) })
	}
	if err == nil && p.reader == nil && !generic && !jsonOnly {
		err = fmt.Errorf("no reader for the content type %s", quote(m.ContentType))
	}
	return jsonOnly, err
}

// mediaOf gives the media type of a content type; generic: it says nothing of
// the payload, as what MQTT bridges and HTTP clients put when nobody told them;
// jsonOnly: it says no more than that it is JSON.
func mediaOf(contentType string) (media string, generic, jsonOnly bool) {
	switch contentType {
	case "":
		return "", true, false
	case "application/json":
		return contentType, false, true
	}
	media, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return contentType, false, false
	}
	switch media {
	case "text/plain", "application/octet-stream", "application/x-www-form-urlencoded":
		return media, true, false
	case "application/json", "text/json":
		return media, false, true
	}
	return media, false, strings.HasSuffix(media, "+json")
}

// only gives the one reader that fits, nil if none does.
func (p *Parser) only(fits func(*reader) bool) (*reader, error) {
	var found *reader
	for _, r := range p.readers {
		switch {
		case !fits(r):
		case found != nil:
			return nil, fmt.Errorf("it may be %s or %s: say which as its format", found.format, r.format)
		default:
			found = r
		}
	}
	return found, nil
}

// opensJSON says whether the payload begins as only JSON does.
func opensJSON(payload []byte) bool {
	payload = bytes.TrimLeft(payload, " \t\r\n")
	return len(payload) > 0 && (payload[0] == '{' || payload[0] == '[')
}

// lookAt finds the reader of a payload that does not begin as JSON. None: then
// it is JSON of another form, or nothing that can be read.
func (p *Parser) lookAt() (err error) {
	if p.reader, err = p.only(func(r *reader) bool { return r.looks != nil && r.looks(p.m.Payload) }); err != nil {
		return err
	}
	if p.reader == nil && p.m.Attributes[topic] != "" {
		p.reader = &topicValue
	}
	return nil
}

// setZone takes the time zone that the transport names, for times without an
// offset.
func (p *Parser) setZone() error {
	p.zone = nil
	name := p.m.Attributes["timezone"]
	if name == "" {
		return nil
	}
	zone := p.zones[name]
	if zone == nil {
		var err error
		if zone, err = time.LoadLocation(name); err != nil || name == "Local" {
			return errors.New("attribute timezone: " + quote(name) + " is no zone of the IANA database")
		}
		if len(p.zones) == maxKnown {
			clear(p.zones)
		}
		p.zones[name] = zone
	}
	p.zone = zone
	return nil
}
