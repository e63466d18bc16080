package reproduce

import (
	"context"
	"fmt"

	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/study"
)

// own imports a domain's images of the user's own.
func (d *Data) own(ctx context.Context, st *store.Store, dom *study.Domain) error {
	return fmt.Errorf("domain %s: own images cannot be imported yet", dom.Key)
}
