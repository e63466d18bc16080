package smoke

import (
	"os"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/plugins/cpu/internal/kernel"
)

// TestEmulated runs the tests of the AVX-512 kernels and the smoke training on
// them where the processor lacks the instructions: in Bochs, which emulates a
// Skylake server that boots Linux with the tests' binaries.
//
// Mixed precision is left out: Bochs 2.7 rounds ties of VCVTPS2PH upwards, not to
// even. The kernel with that instruction is one of the AVX2 set.
func TestEmulated(t *testing.T) {
	if os.Getenv("REFOCUS_SMOKE_ELSEWHERE") != "" {
		t.Skip("this is elsewhere")
	}
	if _, err := kernel.Select("avx512"); err == nil {
		t.Skip("this processor has AVX-512: TestInstructionSets and package kernel test it")
	}
	out := emulate(t, map[string]string{"kernel": "../kernel", "smoke": "."},
		"/kernel -test.v -test.run=Twins/avx512|Select",
		"/smoke -test.v -test.run=TestInstructionSets/avx512/fast$")
	for _, want := range []string{
		"/kernel: succeeded",
		"--- PASS: TestGemmTwins/avx512",
		"--- PASS: TestConvTwins/avx512",
		"--- PASS: TestLossTwins/avx512",
		"--- PASS: TestTransformTwins/avx512",
		"--- PASS: TestRowTwins/avx512",
		"--- PASS: TestPoolTwins/avx512",
		"--- PASS: TestTransposeAndAdamTwins/avx512",
		"--- PASS: TestSelect",
		"/smoke: succeeded",
		"--- PASS: TestInstructionSets/avx512/fast ",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the emulated machine did not print %q", want)
		}
	}
	if t.Failed() {
		t.Log(out)
	}
}
