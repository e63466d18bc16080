package host

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/refocus-em/refocus/harness/backend/plugin"
	"github.com/refocus-em/refocus/harness/files"
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
	trust, digest, variables, err := p.trust(f)
	var unlocked *UnlockedError
	if errors.As(err, &unlocked) && p.AllowUnlocked {
		if p.Spec.Logger != nil {
			p.Spec.Logger.Warn("starting a backend that is not pinned", "backend", f.Name, "path", f.Path, "sha256", digest)
		}
	} else if err != nil {
		return nil, err
	}
	c, err := p.start(ctx, f, digest, variables)
	if err != nil || trust != Pinned {
		return c, err
	}
	// The file is the pinned one; it should also call itself the same.
	d, err := c.Describe(ctx)
	if err == nil {
		lock, _, _ := ReadLock(p.LockFileOf(f.Name))
		if pin, _ := lock.Find(f.Name); d.Version != pin.Version || d.Numerics != pin.Numerics {
			err = fmt.Errorf("backend %s says version %q and numerics %q, %s pins %q and %q: pin it again with `refocus backends pin %s`",
				f.Name, d.Version, d.Numerics, p.LockFileOf(f.Name), pin.Version, pin.Numerics, f.Name)
		}
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (p Plugins) start(ctx context.Context, f Found, digest string, variables []string) (*plugin.Client, error) {
	spec := p.Spec
	spec.Env = slices.Concat(spec.Env, variables)
	spec.Name, spec.Path, spec.Args, spec.SHA256 = f.Name, f.Path, f.Args, digest
	return plugin.Launch(ctx, spec)
}

// Add links an executable from elsewhere, given by its path or found on $PATH, into the
// user's folder of plugins, where it is found from now on, and pins it. linked is
// the link; "" where none was needed.
func (p Plugins) Add(ctx context.Context, name string) (pin Pin, linked string, err error) {
	f, err := p.Find(name)
	if err != nil {
		return Pin{}, "", err
	}
	places := slices.DeleteFunc(slices.Clone(p.places()), func(p Place) bool { return p.What == onPath })
	if !f.Builtin && !slices.ContainsFunc(places, func(p Place) bool { return p.Folder == filepath.Dir(f.Path) }) {
		i := slices.IndexFunc(places, func(p Place) bool { return p.What == userData })
		if i < 0 {
			return Pin{}, "", fmt.Errorf("backend %s: there is no user's folder of plugins to link %s into (is $HOME set?)", f.Name, f.Path)
		}
		linked = filepath.Join(places[i].Folder, filepath.Base(f.Path))
		if err := files.Mkdir(places[i].Folder); err != nil {
			return Pin{}, "", err
		}
		if err := files.Link(f.Path, linked); err != nil {
			return Pin{}, "", fmt.Errorf("backend %s: linking %s to %s: %w", f.Name, linked, f.Path, err)
		}
		again, err := p.Find(f.Name)
		if err != nil {
			return Pin{}, "", err
		}
		if again.Path != linked {
			return Pin{}, "", fmt.Errorf("backend %s: %s comes before %s: remove one of them", f.Name, again.Path, linked)
		}
	}
	pin, err = p.Lock(ctx, f.Name)
	return pin, linked, err
}

// Lock pins the backend's executable as it is now, and of a script what it runs. It is
// started once, to ask for its version.
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
	e, err := environment(ctx, f.Path)
	if err != nil {
		return Pin{}, fmt.Errorf("backend %s: %w", f.Name, err)
	}
	var listed []byte
	var variables []string
	if e != nil {
		listed = e.Bytes(f.Name)
		variables = e.variables(files.Sum(listed))
	}
	c, err := p.start(ctx, f, digest, variables)
	if err != nil {
		return Pin{}, err
	}
	defer c.Close()
	d, err := c.Describe(ctx)
	if err != nil {
		return Pin{}, err
	}
	path := p.LockFileOf(f.Name)
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
	delete(pin.Environment, platform)
	if e != nil {
		at := environmentPath(path, pin.Name)
		err := files.Mkdir(filepath.Dir(at))
		if err == nil {
			err = files.Write(at, listed)
		}
		if err != nil {
			return Pin{}, fmt.Errorf("writing what backend %s runs: %w", pin.Name, err)
		}
		if pin.Environment == nil {
			pin.Environment = map[string]string{}
		}
		pin.Environment[platform] = files.Sum(listed)
		pin.Runs = len(e.Files)
	}
	lock.Backends = append(slices.DeleteFunc(lock.Backends, func(q Pin) bool { return q.Name == pin.Name }), pin)
	if err := errors.Join(files.Mkdir(filepath.Dir(path)), lock.write(path)); err != nil {
		return Pin{}, fmt.Errorf("writing the lock file: %w", err)
	}
	return pin, nil
}
