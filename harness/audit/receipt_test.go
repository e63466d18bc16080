package audit

import (
	"bytes"
	"crypto/ed25519"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/refocus-em/refocus/harness/testkit/peers"
)

func receipt() *Receipt {
	r := &Receipt{
		Format: ReceiptFormat, Harness: "test", Time: time.Date(2025, 11, 25, 12, 0, 0, 0, time.UTC),
		Subject: Subject{Root: strings.Repeat("ab", 32), Files: 3, Bytes: 12345},
		Seed:    1<<53 - 1, Confidence: 0.95,
		Runs: Drawn[Run]{Population: 1200, Sample: 2, Outcomes: []Run{
			{Digest: strings.Repeat("1", 64), ID: "a \"b\" <c>", Outcome: SameBits, Weights: true, Epochs: 3, Of: 3, Seconds: 0.1},
			{Digest: strings.Repeat("2", 64), ID: "ü", Outcome: Within, Weights: true, Epochs: 1, Of: 3, Distance: 1e-7, Limit: 1e-5},
		}},
	}
	r.conclude()
	return r
}

func key(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config", "key.pem")
	if made, err := MakeKey(path); err != nil || !made {
		t.Fatal(made, err)
	}
	if made, err := MakeKey(path); err != nil || made {
		t.Errorf("a second call makes another key: %v, %v", made, err)
	}
	k, err := ReadKey(path)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// A receipt is what was signed; one of which any byte was changed, cut off or added is
// refused.
func TestReceipt(t *testing.T) {
	r, k := receipt(), key(t)
	b, err := r.Sign(k)
	if err != nil {
		t.Fatal(err)
	}
	got, err := VerifyReceipt(b)
	if err != nil || !reflect.DeepEqual(got, r) || got.PublicKey != PublicKey(k) {
		t.Fatalf("%+v, %v", got, err)
	}
	for i := range b {
		for _, flip := range []byte{1, 0x20, 0x80} { // 0x20 changes the case of a letter
			c := bytes.Clone(b)
			c[i] ^= flip
			if _, err := VerifyReceipt(c); err == nil {
				t.Fatalf("a receipt whose byte %d is %q for %q is accepted", i, c[i], b[i])
			}
		}
		if _, err := VerifyReceipt(b[:i]); err == nil {
			t.Fatalf("%d bytes of a receipt are accepted", i)
		}
	}
	other, err := r.Sign(key(t))
	if err != nil {
		t.Fatal(err)
	}
	n := len(b) - signatureLength
	for name, c := range map[string][]byte{
		"more":                append(bytes.Clone(b), '\n'),
		"space":               append([]byte(" "), b...),
		"another's signature": append(bytes.Clone(b[:n]), other[n:]...),
		"empty":               nil,
	} {
		if _, err := VerifyReceipt(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestConclude(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Receipt)
		want   Verdict
		say    string
	}{
		"genuine": {func(*Receipt) {}, Genuine, "Had 932 or more (77.7 %) of all 1200 been false"},
		"false":   {func(r *Receipt) { r.Runs.Outcomes[0].Outcome = Differs }, False, "1 of the 2 runs drawn from 1200 are not"},
		"false and undone": {func(r *Receipt) {
			r.Runs.Outcomes[0].Outcome, r.Runs.Outcomes[1].Outcome = Differs, NotAudited
		}, False, "not genuine"},
		"undone": {func(r *Receipt) { r.Runs.Outcomes[0].Outcome = NotAudited }, Incomplete, "says nothing of all"},
		"none":   {func(r *Receipt) { r.Runs.Sample, r.Runs.Outcomes = 0, nil }, Incomplete, "No runs of 1200"},
		"image": {func(r *Receipt) {
			r.Images = Drawn[Image]{Population: 9, Sample: 1, Outcomes: []Image{{Outcome: Differs}}}
		}, False, "1 of the 1 simulated images drawn from 9"},
		"all": {func(r *Receipt) { r.Runs.Population = 2 }, Genuine, "All 2 of 2 runs that were drawn"},
	} {
		r := receipt()
		c.change(r)
		r.conclude()
		if said := strings.Join(r.Statements, "\n"); r.Verdict != c.want || !strings.Contains(said, c.say) {
			t.Errorf("%s: %s:\n%s", name, r.Verdict, said)
		}
	}
}

// OpenSSL reads the keys that are made, and keys that it makes are read; keys that
// others may read, and files that are none, are refused.
func TestKeys(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "key.pem")
	if _, err := MakeKey(path); err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS != "windows" {
		if err := os.Chmod(path, 0o640); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadKey(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("a key that the group may read: %v", err)
		}
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range map[string]string{"empty": "", "text": "hello", "other": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"} {
		bad := filepath.Join(dir, name)
		if err := os.WriteFile(bad, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadKey(bad); err == nil {
			t.Errorf("%s: it is read as a key", name)
		}
	}
	if _, err := ReadKey(filepath.Join(dir, "none")); err == nil {
		t.Error("a key that is not there is read")
	}

	openssl := peers.Program(t, "openssl", "keys are compared with its own")
	out, err := exec.Command(openssl, "pkey", "-in", path, "-pubout", "-outform", "DER").Output()
	if err != nil {
		t.Fatal(err)
	}
	k, err := ReadKey(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasSuffix(out, k.Public().(ed25519.PublicKey)) {
		t.Errorf("OpenSSL gives the public key %x, we %s", out, PublicKey(k))
	}
	for algorithm, fine := range map[string]bool{"ed25519": true, "ed448": false} {
		theirs := filepath.Join(dir, algorithm)
		if out, err := exec.Command(openssl, "genpkey", "-algorithm", algorithm, "-out", theirs).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if err := os.Chmod(theirs, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadKey(theirs); (err == nil) != fine {
			t.Errorf("OpenSSL's %s key: %v", algorithm, err)
		}
	}
}
