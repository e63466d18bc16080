package cpu

import (
	"testing"

	"github.com/refocus-em/refocus/harness/backend/backendtest"
)

// The backend conforms in this process; the other plugins' tests go through a
// process of their own.
func TestConformance(t *testing.T) { backendtest.Test(t, New("test"), backendtest.Options{}) }
