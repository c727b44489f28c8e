package microbit

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/godbus/dbus/v5"
)

// Pair pairs a micro:bit, by its address or name, and has BlueZ trust it. It
// looks for the device until ctx ends. The micro:bit has to be in its pairing
// mode: hold A and B, press and release reset, wait for the Bluetooth symbol.
//
// One whose program asks for a passkey shows six digits; passkey gives what the
// user reads there. Where passkey is nil, only one that asks for none is paired.
// One that is paired already is no error.
func Pair(ctx context.Context, adapter, device string, passkey func(context.Context) (uint32, error)) error {
	b, err := open(ctx, adapter)
	if err != nil {
		return err
	}
	defer b.close()
	path, _, err := b.find(ctx, device)
	if err != nil {
		return fmt.Errorf("pair %s: %w", device, err)
	}

	const agentPath dbus.ObjectPath = "/dev/telemesh/microbit/agent"
	capability := "NoInputNoOutput"
	if passkey != nil {
		capability = "KeyboardDisplay"
	}
	a := &agent{ctx: ctx, device: path, passkey: passkey}
	if err := b.conn.Export(a, agentPath, "org.bluez.Agent1"); err != nil {
		return err
	}
	if err := b.ask(ctx, "/org/bluez", agentManager1+".RegisterAgent", agentPath, capability); err != nil {
		return fmt.Errorf("pair %s: %w", device, err)
	}
	// The agent ends with the connection, too.
	switch err := b.call(ctx, path, device1+".Pair"); {
	case err == nil, errorName(err) == bluez+".Error.AlreadyExists":
	case ctx.Err() != nil:
		b.ask(context.WithoutCancel(ctx), path, device1+".CancelPairing")
		return fmt.Errorf("pair %s: given up before it was: %w", device, ctx.Err())
	case errorName(err) == bluez+".Error.AuthenticationFailed" && passkey == nil:
		return fmt.Errorf("pair %s: %w: it may ask for a passkey", device, err)
	default:
		return fmt.Errorf("pair %s: %w: is it in pairing mode (hold A and B, press and release reset)?", device, err)
	}
	if err := b.ask(ctx, path, properties+".Set", device1, "Trusted", dbus.MakeVariant(true)); err != nil {
		return fmt.Errorf("trust %s: %w", device, err)
	}
	// It leaves its pairing mode by a reset, and is then connected anew.
	b.ask(ctx, path, device1+".Disconnect")
	return nil
}

// Remove has BlueZ forget a device, by its address or name. One that it does not
// know is forgotten already.
func Remove(ctx context.Context, adapter, device string) error {
	b, err := open(ctx, adapter)
	if err != nil {
		return err
	}
	defer b.close()
	all, err := b.devices(ctx)
	if err != nil {
		return err
	}
	for path, f := range all {
		if f.is(device) {
			return b.ask(ctx, b.adapter, adapter1+".RemoveDevice", path)
		}
	}
	return nil
}

// agent answers what BlueZ asks while a device is paired:
// https://github.com/bluez/bluez/blob/master/doc/org.bluez.Agent.rst
type agent struct {
	ctx     context.Context
	device  dbus.ObjectPath
	passkey func(context.Context) (uint32, error)
}

// timeToRead is how long BlueZ waits for a passkey.
const timeToRead = time.Minute

var errRejected = dbus.NewError(bluez+".Error.Rejected", []any{"telemesh-microbit pairs another device"})

func (a *agent) RequestPasskey(device dbus.ObjectPath) (uint32, *dbus.Error) {
	if device != a.device || a.passkey == nil {
		return 0, errRejected
	}
	ctx, cancel := context.WithTimeout(a.ctx, timeToRead)
	defer cancel()
	key, err := a.passkey(ctx)
	if err == nil && key > 999999 {
		err = errors.New("a passkey has six digits")
	}
	if err != nil {
		return 0, dbus.NewError(bluez+".Error.Canceled", []any{err.Error()})
	}
	return key, nil
}

func (a *agent) RequestConfirmation(device dbus.ObjectPath, _ uint32) *dbus.Error {
	return a.mine(device)
}

func (a *agent) RequestAuthorization(device dbus.ObjectPath) *dbus.Error {
	return a.mine(device)
}

func (a *agent) AuthorizeService(device dbus.ObjectPath, _ string) *dbus.Error {
	return a.mine(device)
}

func (a *agent) DisplayPasskey(dbus.ObjectPath, uint32, uint16) *dbus.Error { return nil }

func (a *agent) RequestPinCode(dbus.ObjectPath) (string, *dbus.Error) { return "", errRejected }

func (a *agent) DisplayPinCode(dbus.ObjectPath, string) *dbus.Error { return nil }

func (a *agent) Cancel() *dbus.Error { return nil }

func (a *agent) Release() *dbus.Error { return nil }

func (a *agent) mine(device dbus.ObjectPath) *dbus.Error {
	if device != a.device {
		return errRejected
	}
	return nil
}
