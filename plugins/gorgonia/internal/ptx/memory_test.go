package ptx

import (
	"errors"
	"strings"
	"testing"
)

// thread is a kernel of one pointer, in %rd0, with this thread's number in %r0, its word
// in [%rd2], and 4 KiB of shared memory at s, this thread's word in [%r1].
func thread(body string) string {
	return header + `.visible .entry k(.param .u64 p)
{
	.reg .pred %p<4>; .reg .b16 %h<4>; .reg .b32 %r<10>; .reg .f32 %f<10>; .reg .b64 %rd<10>;
	.shared .align 16 .b8 s[4096];
	ld.param.u64 %rd0, [p];
	mov.u32 %r9, %ctaid.x; mov.u32 %r8, %ntid.x; mov.u32 %r7, %tid.x; mad.lo.s32 %r0, %r9, %r8, %r7;
	mul.wide.u32 %rd1, %r0, 4; add.s64 %rd2, %rd0, %rd1;
	shl.b32 %r1, %r7, 2; mov.u32 %r2, s; add.s32 %r1, %r1, %r2;
` + body + "\n}\n"
}

// faults runs a kernel of blocks × threads on n words that are written, or not.
func faults(t *testing.T, body string, blocks, threads, n int, written bool) error {
	t.Helper()
	k := mustLoad(t, thread(body)).Kernel("k")
	m := NewMemory()
	p := m.Alloc(4 * n)
	if written {
		if err := m.Fill(p, 1, n); err != nil {
			t.Fatal(err)
		}
	}
	return m.Launch(k, Launch{Grid: Dim{blocks, 1, 1}, Threads: Dim{threads, 1, 1}, Params: pack(t, k, p), Steps: 10000})
}

// Every kind of fault is found and told with its place; and its twin that is in order
// passes.
func TestFaults(t *testing.T) {
	const (
		loads  = "ld.global.u32 %r3, [%rd2];"
		stores = "st.global.u32 [%rd2], %r0;"
		shares = "st.shared.u32 [%r1], %r0;"
		other  = "xor.b32 %r4, %r1, 4; ld.shared.u32 %r3, [%r4];"   // the neighbour's word
		far    = "xor.b32 %r4, %r1, 128; ld.shared.u32 %r3, [%r4];" // of the neighbouring warp
	)
	for _, c := range []struct {
		name, body      string
		blocks, threads int
		words           int
		written         bool
		kind            Kind
		says            string // "" for no fault
	}{
		{"in order", loads + stores, 2, 64, 128, true, 0, ""},
		{"a word too few", stores, 2, 64, 127, false, Bounds, "block (1,0,0), thread (63,0,0)"},
		{"before the first", "ld.global.u32 %r3, [%rd2+-4];", 1, 32, 32, true, Bounds, "thread (0,0,0)"},
		{"a vector over the end", "ld.global.v2.u32 {%r3, %r4}, [%rd0+120];", 1, 32, 31, true, Bounds, "byte 120"},
		{"a null pointer", "mov.u64 %rd0, 0; ld.global.u32 %r3, [%rd0];", 1, 32, 32, true, Bounds, "address 0x0"},
		{"beyond shared memory", "st.shared.u32 [s+4096], %r0;", 1, 1, 1, true, Bounds, "shared"},
		{"misaligned", "ld.global.v2.u32 {%r3, %r4}, [%rd0+4];", 1, 32, 32, true, Alignment, "8 bytes"},
		{"misaligned vector of shared memory", "st.shared.v4.u32 [%r1], {%r0, %r0, %r0, %r0};", 1, 2, 1, true, Alignment, "thread (1,0,0)"},
		{"not written", loads, 1, 32, 32, false, Undefined, "byte 0"},
		{"shared memory not written", "ld.shared.u32 %r3, [%r1];", 1, 32, 32, false, Undefined, "shared"},
		{"half a word written", "st.global.u16 [%rd2], %h0; ld.global.u32 %r3, [%rd2];", 1, 32, 32, false, Undefined, "byte 2"},
		{"two blocks write", "mul.wide.u32 %rd1, %r7, 4; add.s64 %rd2, %rd0, %rd1; st.global.u32 [%rd2], %r0;", 2, 32, 32, true, Race, "block"},
		{"two lanes write", "st.global.u32 [%rd0], %r0;", 1, 2, 2, true, Race, "thread (0,0,0) of block (0,0,0)"},
		{"one writes what all read", "ld.global.u32 %r3, [%rd0];" + stores, 1, 64, 64, true, Race, "writes"},
		{"one block reads what another writes", "ld.global.u32 %r3, [%rd0]; setp.eq.s32 %p0, %r9, 1; @%p0 st.global.u32 [%rd0], %r0;", 2, 1, 2, true, Race, "block"},
		{"the same thread", stores + loads + stores, 2, 64, 128, false, 0, ""},
		{"all read", "ld.global.u32 %r3, [%rd0];", 4, 64, 1, true, 0, ""},
		{"bytes of a word", "cvt.u64.u32 %rd3, %r0; add.s64 %rd4, %rd0, %rd3; st.global.u8 [%rd4], %h0;", 1, 64, 16, false, 0, ""},
		{"written, and read by way of the read-only cache", stores + "ld.global.nc.u32 %r3, [%rd2];", 1, 32, 32, true, Race, "reads"},
		{"read by way of the read-only cache, and written", "ld.global.nc.u32 %r3, [%rd2];" + stores, 1, 32, 32, true, Race, "read-only"},
		{"a barrier missing", shares + far, 1, 64, 1, true, Undefined, "thread (0,0,0)"},
		{"a barrier missing in a warp", shares + other, 1, 32, 1, true, Race, "thread"},
		{"a barrier", shares + "bar.sync 0;" + far, 1, 64, 1, true, 0, ""},
		{"a barrier, and too few", shares + "bar.sync 0;" + far + shares, 1, 64, 1, true, Race, "thread (32,0,0)"},
		{"two barriers", shares + "bar.sync 0;" + far + "bar.sync 0;" + shares, 1, 64, 1, true, 0, ""},
		{"a barrier of the warp", shares + "bar.warp.sync -1;" + other, 1, 32, 1, true, 0, ""},
		{"a barrier of the warp does not hold others", shares + "bar.sync 0;" + shares + "bar.warp.sync -1;" + far, 1, 64, 1, true, Race, "thread"},
		{"a barrier orders global memory of the block", stores + "bar.sync 0; ld.global.u32 %r3, [%rd0];", 1, 64, 64, false, 0, ""},
		{"but not of others", stores + "bar.sync 0; ld.global.u32 %r3, [%rd0];", 2, 64, 128, true, Race, "block"},
		{"a barrier that half reach", "setp.lt.u32 %p0, %r0, 32; @%p0 bar.sync 0;", 1, 64, 1, true, Divergence, "thread (32,0,0)"},
		{"returned before the barrier", "setp.eq.u32 %p0, %r0, 5; @%p0 ret; bar.sync 0;", 1, 64, 1, true, Divergence, "thread (5,0,0)"},
		{"two barriers at once", "setp.lt.u32 %p0, %r0, 32; @%p0 bra $a; bar.sync 0; ret; $a: bar.sync 0;", 1, 64, 1, true, Divergence, "line"},
		{"a shuffle of half a warp", "setp.lt.u32 %p0, %r0, 16; @!%p0 bra $a; shfl.sync.down.b32 %r3, %r0, 1, 31, -1; $a: ret;", 1, 32, 1, true, Divergence, "lane 16"},
		{"a shuffle of fewer lanes than the mask", "shfl.sync.down.b32 %r3, %r0, 1, 31, 0xffff;", 1, 32, 1, true, Divergence, "lacks"},
		{"division by zero", "mov.u32 %r3, 0; div.u32 %r4, %r0, %r3;", 1, 32, 1, true, Arithmetic, "zero"},
		{"a loop without end", "$a: bra $a;", 1, 32, 1, true, Endless, "10000"},
		{"a trap", "trap;", 1, 32, 1, true, Trap, "trapped"},
	} {
		err := faults(t, c.body+"\n", c.blocks, c.threads, c.words, c.written)
		var f *Fault
		switch {
		case c.says == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.says == "":
		case !errors.As(err, &f) || f.Kind != c.kind || f.Line == 0 || f.Instruction == "" || !strings.Contains(err.Error(), c.says):
			t.Errorf("%s: %v, not %v, %q", c.name, err, c.kind, c.says)
		}
	}
}

// A race between blocks is found whichever of them comes first, and with blocks running
// at the same time.
func TestRacesBetweenBlocks(t *testing.T) {
	for range 50 {
		err := faults(t, "ld.global.u32 %r3, [%rd0]; setp.eq.s32 %p0, %r0, 777; @%p0 st.global.u32 [%rd0], %r0;", 40, 32, 1, true)
		var f *Fault
		if !errors.As(err, &f) || f.Kind != Race {
			t.Fatalf("%v", err)
		}
	}
}

// Stamps of launches wrap, and nothing of earlier ones is taken for this one's.
func TestStamps(t *testing.T) {
	k := mustLoad(t, thread("st.global.u32 [%rd2], %r0;")).Kernel("k")
	m := NewMemory()
	p := m.Alloc(4 * 64)
	for i := range 1<<stampBits + 10 {
		l := Launch{Grid: Dim{2, 1, 1}, Threads: Dim{32, 1, 1}, Params: pack(t, k, p)}
		if i%2 == 1 {
			l = Launch{Grid: Dim{1, 1, 1}, Threads: Dim{64, 1, 1}, Params: pack(t, k, p)}
		}
		if err := m.Launch(k, l); err != nil {
			t.Fatal(i, err)
		}
	}
}

// Memory is what copies and launches may touch, and nothing else.
func TestMemory(t *testing.T) {
	m := NewMemory()
	a, b := m.Alloc(10), m.Alloc(10)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	fails := func(err error, says string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, not %q", err, says)
		}
	}
	must(m.Write(a, []byte{1, 2, 3}))
	must(m.Copy(b, a, 5))
	buf := make([]byte, 3)
	must(m.Read(buf, b))
	if string(buf) != "\x01\x02\x03" {
		t.Errorf("%v", buf)
	}
	fails(m.Read(make([]byte, 4), b), "byte 3 of the 4")
	fails(m.Read(buf, b+10), "in no allocation")
	fails(m.Write(b+8, buf), "has 10")
	fails(m.Copy(a, a+1, 4), "overlap")
	fails(m.Fill(a+1, 0, 1), "multiple of 4")
	fails(m.Free(a+1), "no allocation begins")
	must(m.Free(a))
	fails(m.Free(a), "no allocation begins")
	fails(m.Write(a, buf), "in no allocation")
	if c := m.Alloc(10); c == a || m.Bytes() != 20 || m.Allocations() != 2 {
		t.Errorf("%#x, %d bytes in %d", c, m.Bytes(), m.Allocations())
	}
}

// What a device refuses at launch.
func TestLaunchChecks(t *testing.T) {
	k := mustLoad(t, header+`.visible .entry k(.param .u32 n) .maxntid 64, 1, 1 { .shared .align 4 .b8 s[1024]; ret; }
	.extern .shared .align 16 .b8 more[];
	.visible .entry d() { .reg .b32 %r<2>; mov.u32 %r0, more; mov.u32 %r1, 7; st.shared.u32 [%r0], %r1; }`)
	one := Dim{1, 1, 1}
	for _, c := range []struct {
		kernel string
		l      Launch
		says   string
	}{
		{"k", Launch{Grid: one, Threads: Dim{64, 1, 1}, Params: make([]byte, 4)}, ""},
		{"k", Launch{Grid: one, Threads: Dim{65, 1, 1}, Params: make([]byte, 4)}, "at most 64"},
		{"k", Launch{Grid: one, Threads: Dim{0, 1, 1}, Params: make([]byte, 4)}, "threads"},
		{"k", Launch{Grid: Dim{1, 1 << 16, 1}, Threads: one, Params: make([]byte, 4)}, "grid"},
		{"k", Launch{Grid: one, Threads: one, Params: make([]byte, 8)}, "8 bytes of parameters, it has 4"},
		{"k", Launch{Grid: one, Threads: one, Params: make([]byte, 4), Shared: 16}, "takes none"},
		{"d", Launch{Grid: one, Threads: one, Shared: 16}, ""},
		{"d", Launch{Grid: one, Threads: one}, "out of bounds"},
		{"d", Launch{Grid: one, Threads: one, Shared: 49153}, "are allowed"},
	} {
		err := NewMemory().Launch(k.Kernel(c.kernel), c.l)
		if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%+v: %v, not %q", c.l, err, c.says)
		}
	}
}

// Constants and generic addresses.
func TestSpaces(t *testing.T) {
	text := header + `.const .align 4 .f32 table[4] = {0f3F800000, 0f40000000, 0f40400000, 0f40800000};
.visible .entry k(.param .u64 p)
{
	.reg .b32 %r<4>; .reg .f32 %f<4>; .reg .b64 %rd<8>;
	.shared .align 4 .f32 s[2];
	ld.param.u64 %rd0, [p];
	ld.const.f32 %f0, [table+8];
	mov.u64 %rd1, s; cvta.shared.u64 %rd2, %rd1;
	st.f32 [%rd2+4], %f0;
	ld.shared.f32 %f1, [s+4];
	cvta.to.global.u64 %rd3, %rd0;
	st.global.f32 [%rd3], %f1;
	ld.f32 %f2, [%rd0];
	add.rn.f32 %f2, %f2, %f2;
	st.global.f32 [%rd3+4], %f2;
}`
	k := mustLoad(t, text).Kernel("k")
	m := NewMemory()
	p := m.Alloc(8)
	if err := m.Launch(k, Launch{Grid: Dim{1, 1, 1}, Threads: Dim{1, 1, 1}, Params: pack(t, k, p)}); err != nil {
		t.Fatal(err)
	}
	if v := get[float32](t, m, p, 2); v[0] != 3 || v[1] != 6 {
		t.Errorf("%v", v)
	}
}

// Counts of instructions, sectors and passes over the banks, worked out by hand.
func TestCounts(t *testing.T) {
	body := `
	setp.ge.u32 %p0, %r0, 48; @%p0 bra $end; // one warp whole, one half
	ld.global.f32 %f0, [%rd2];
	mul.wide.u32 %rd1, %r0, 128; add.s64 %rd3, %rd0, %rd1; ld.global.f32 %f1, [%rd3];
	shl.b32 %r3, %r7, 3; st.shared.f32 [%r3], %f0;
	shl.b32 %r3, %r7, 4; st.shared.v4.f32 [%r3+512], {%f0, %f0, %f0, %f0};
	$end: bar.sync 0; ret;`
	k := mustLoad(t, thread(body)).Kernel("k")
	m := NewMemory()
	p := m.Alloc(128 * 64)
	if err := m.Fill(p, 0, 32*64); err != nil {
		t.Fatal(err)
	}
	var c Counts
	for range 2 {
		if err := m.Launch(k, Launch{Grid: Dim{3, 1, 1}, Threads: Dim{64, 1, 1}, Params: pack(t, k, p), Counts: &c}); err != nil {
			t.Fatal(err)
		}
	}
	// Of six blocks, by ctaid: all but the first have %r0 ≥ 48 from its first thread on.
	for opcode, want := range map[string][2]int64{"ld.global.f32": {2 * 2 * 48, 2 * 2 * 2}, "bar.sync": {6 * 64, 6 * 2}, "bra": {6 * 64, 6 * 2}, "st.shared.v4.f32": {2 * 48, 2 * 2}} {
		if got := [2]int64{c.Threads[opcode], c.Warps[opcode]}; got != want {
			t.Errorf("%s: %d, want %d", opcode, got, want)
		}
	}
	if c.Launches != 2 || c.Barriers != 12 {
		t.Errorf("%d launches, %d barriers", c.Launches, c.Barriers)
	}
	// Two warps, of 32 and 16 lanes, four bytes each: 4 + 2 sectors in a row, 48 apart.
	if c.LoadedBytes != 2*2*48*4 || c.LoadedSectors != 2*(6+48) {
		t.Errorf("%d bytes in %d sectors", c.LoadedBytes, c.LoadedSectors)
	}
	// Every second word: two lanes to a bank, one where there are 16. Vectors: a pass for
	// eight lanes.
	if c.SharedBytes != 2*48*(4+16) || c.SharedPasses != 2*(2+1+4+2) {
		t.Errorf("%d bytes in %d passes", c.SharedBytes, c.SharedPasses)
	}
}
