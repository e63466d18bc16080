package cli

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/reproduce"
	"github.com/refocus-em/refocus/harness/study"
)

// unasked is what is trained without being asked for twice: more is years of work that
// somebody may have started by mistake.
const unasked = 7 * 24 * time.Hour

// consent asks before it lets a study begin whose training would take this machine
// longer than that. Where nobody can be asked, --yes must have been given.
func consent(cmd *cobra.Command, r *reproduce.Resolved, devices []backend.Device, cores int, yes bool) error {
	rate, by := study.AssumedRate(r.Plan.Width())*float64(cores)/2, fmt.Sprintf("%d cores", cores)
	if devices[0].Kind != "cpu" {
		rate, by = study.StatedGPURate*float64(len(devices)), reproduce.DeviceNames(devices)
	}
	var all, left float64
	for _, n := range r.Nodes {
		work := n.Spec.Work()
		all += work
		if !r.Store.HasRun(n.Digest) {
			left += work
		}
	}
	e := r.Plan.Estimate()
	e.FLOPs *= left / all
	took := e.TrainingTime(rate)
	if took <= unasked || yes {
		return nil
	}
	what := fmt.Sprintf("%s, profile %s, would train for about %s on %s (%s; 'refocus plan' says what would make it affordable)",
		r.Plan.Study.Name, r.Plan.Study.ProfileName(), format.Duration(took), by, study.Rate{FLOPs: rate})
	if in, ok := cmd.InOrStdin().(*os.File); !ok || !term.IsTerminal(int(in.Fd())) {
		return fmt.Errorf("%s: more than %s is begun only with --yes", what, format.Duration(unasked))
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%s.\nBegin? [y/N] ", what)
	answer, _ := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
	if a := strings.ToLower(strings.TrimSpace(answer)); a != "y" && a != "yes" {
		return fmt.Errorf("not begun")
	}
	return nil
}
