package plugin

import (
	"strings"

	"github.com/hashicorp/go-hclog"
)

// quiet lowers what go-plugin itself has to say to debugging: Client reports
// the same as errors, with reasons. The plugin's own lines, to which go-plugin
// gives the executable's name, keep their levels.
type quiet struct{ hclog.Logger }

func (q quiet) Named(name string) hclog.Logger {
	if strings.HasPrefix(name, Prefix) {
		return q.Logger.Named(strings.TrimPrefix(name, Prefix))
	}
	return quiet{q.Logger.Named(name)}
}

func (q quiet) Info(msg string, args ...any)  { q.Debug(msg, args...) }
func (q quiet) Warn(msg string, args ...any)  { q.Debug(msg, args...) }
func (q quiet) Error(msg string, args ...any) { q.Debug(msg, args...) }
