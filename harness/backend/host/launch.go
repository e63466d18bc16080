package host

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/refocus-em/refocus/harness/backend/plugin"
)

// Plugins finds, pins and starts backends.
type Plugins struct {
	// Builtin maps the name of a backend that the harness itself can serve to
	// the arguments with which it does.
	Builtin map[string][]string
	// Places defaults to Places().
	Places []Place
	// LockFile defaults to LockPath().
	LockFile string
	// AllowUnlocked starts executables that the lock file does not pin.
	AllowUnlocked bool
	// Spec holds the logger and the timeouts of plugins that are started.
	Spec plugin.Spec
}

// Launch finds a backend, makes sure that it may be started, and starts it.
func (p Plugins) Launch(ctx context.Context, name string) (*plugin.Client, error) {
	f, err := p.Find(name)
	if err != nil {
		return nil, err
	}
	trust, digest, err := p.Trust(f)
	var unlocked *UnlockedError
	if errors.As(err, &unlocked) && p.AllowUnlocked {
		if p.Spec.Logger != nil {
			p.Spec.Logger.Warn("starting a backend that is not pinned", "backend", f.Name, "path", f.Path, "sha256", digest)
		}
	} else if err != nil {
		return nil, err
	}
	c, err := p.start(ctx, f, digest)
	if err != nil || trust != Pinned {
		return c, err
	}
	// The file is the pinned one; it should also call itself the same.
	d, err := c.Describe(ctx)
	if err == nil {
		lock, _, _ := ReadLock(p.lockFile())
		if pin, _ := lock.Find(f.Name); d.Version != pin.Version || d.Numerics != pin.Numerics {
			err = fmt.Errorf("backend %s says version %q and numerics %q, %s pins %q and %q: pin it again with `refocus backends lock %s`",
				f.Name, d.Version, d.Numerics, p.lockFile(), pin.Version, pin.Numerics, f.Name)
		}
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (p Plugins) start(ctx context.Context, f Found, digest string) (*plugin.Client, error) {
	spec := p.Spec
	spec.Name, spec.Path, spec.Args, spec.SHA256 = f.Name, f.Path, f.Args, digest
	return plugin.Launch(ctx, spec)
}

// Lock pins the backend's executable as it is now. It is started once, to ask
// for its version.
func (p Plugins) Lock(ctx context.Context, name string) (Pin, error) {
	f, err := p.Find(name)
	if err != nil {
		return Pin{}, err
	}
	if f.Builtin {
		return Pin{}, fmt.Errorf("backend %s is part of this program and is not pinned", f.Name)
	}
	_, digest, err := p.Trust(f)
	var unlocked *UnlockedError
	if err != nil && !errors.As(err, &unlocked) {
		return Pin{}, err
	}
	c, err := p.start(ctx, f, digest)
	if err != nil {
		return Pin{}, err
	}
	defer c.Close()
	d, err := c.Describe(ctx)
	if err != nil {
		return Pin{}, err
	}
	path := p.lockFile()
	lock, _, err := ReadLock(path)
	if err != nil {
		return Pin{}, err
	}
	pin, found := lock.Find(f.Name)
	if !found || pin.Version != d.Version || pin.Numerics != d.Numerics || pin.Protocol != plugin.ProtocolVersion {
		// Other platforms' executables are of another version.
		pin = Pin{Name: d.Name, Version: d.Version, Protocol: plugin.ProtocolVersion, Numerics: d.Numerics, SHA256: map[string]string{}}
	}
	if pin.SHA256 == nil { // a lock file may name a backend without any
		pin.SHA256 = map[string]string{}
	}
	pin.SHA256[platform] = digest
	lock.Backends = append(slices.DeleteFunc(lock.Backends, func(q Pin) bool { return q.Name == pin.Name }), pin)
	if err := lock.write(path); err != nil {
		return Pin{}, fmt.Errorf("writing the lock file: %w", err)
	}
	return pin, nil
}
