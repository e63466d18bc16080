package main

import (
	"context"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/internal/progress"
	"github.com/refocus-em/refocus/harness/reproduce"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/study"
	"github.com/refocus-em/refocus/harness/train"
)

func writeReport(ctx context.Context, st *store.Store, p *study.Plan, nodes []*reproduce.Node, desc backend.Description, failures []reproduce.Failure, files map[string]train.Files, b *backendFlags, out *progress.Printer) error {
	return nil
}
