package reproduce

import "testing"

func TestShare(t *testing.T) {
	for _, c := range []struct{ jobs, threads, cores, width, wantJobs, wantThreads int }{
		{0, 0, 8, 8, 8, 1},
		{0, 0, 8, 64, 1, 8}, // wide networks take too much memory side by side
		{2, 0, 8, 64, 2, 4},
		{0, 3, 8, 8, 2, 3},
		{0, 16, 8, 8, 1, 16},
		{16, 0, 8, 8, 16, 1},
		{3, 5, 8, 64, 3, 5},
	} {
		if j, n := Share(c.jobs, c.threads, c.cores, c.width); j != c.wantJobs || n != c.wantThreads {
			t.Errorf("%+v: %d runs of %d threads", c, j, n)
		}
	}
}
