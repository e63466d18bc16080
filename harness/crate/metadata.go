package crate

import (
	"bytes"
	"encoding/json"
	"fmt"
	"mime"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/refocus-em/refocus/artifacts/reference"
	"github.com/refocus-em/refocus/harness/backend/host"
	"github.com/refocus-em/refocus/harness/dataset"
	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/specs"
)

// entity of JSON-LD.
type entity map[string]any

// ref is a link to an entity.
func ref(id string) entity { return entity{"@id": id} }

// refs are links to entities; a single one stands alone, as RO-Crate wants it.
func refs(ids []string) any {
	if len(ids) == 1 {
		return ref(ids[0])
	}
	all := []entity{}
	for _, id := range ids {
		all = append(all, ref(id))
	}
	return all
}

// Addresses.
const (
	homepage     = "https://github.com/refocus-em/refocus"
	paper        = "https://doi.org/10.69761/kjte5358"
	ccBy         = "https://spdx.org/licenses/CC-BY-4.0"
	apache       = "https://spdx.org/licenses/Apache-2.0"
	terms        = "https://w3id.org/ro/terms/workflow-run#"
	specLanguage = "#refocus-spec"
	runAction    = "#run"
	iso8601      = "2006-01-02T15:04:05-07:00"
)

// graph is the metadata while it is put together.
type graph struct {
	all   []entity
	parts []string // of the root
}

func (g *graph) add(id, kind any, properties entity) entity {
	properties["@id"], properties["@type"] = id, kind
	g.all = append(g.all, properties)
	return properties
}

func (g *graph) has(id string) bool {
	return slices.ContainsFunc(g.all, func(e entity) bool { return e["@id"] == id })
}

// metadata is the content of metadataFile. The crate's other files have been written.
func (p *publication) metadata(spec string) ([]byte, error) {
	s := p.r.Plan.Study
	g := &graph{}
	size := map[string]int{}
	for i, f := range p.sums {
		size[f.Name] = i
	}
	// file adds a file that was written.
	file := func(name, title, description string, more entity) entity {
		f := p.sums[size[name]]
		e := g.add(name, "File", entity{"name": title, "contentSize": fmt.Sprint(f.Size), "sha256": f.SHA256, "encodingFormat": mediaType(name)})
		if description != "" {
			e["description"] = description
		}
		for k, v := range more {
			e[k] = v
		}
		return e
	}

	g.add(metadataFile, "CreativeWork", entity{
		"about":      ref("./"),
		"conformsTo": []entity{ref("https://w3id.org/ro/crate/1.1"), ref("https://w3id.org/workflowhub/workflow-ro-crate/1.0")},
	})
	profiles := []struct{ id, name, version string }{
		{"https://w3id.org/ro/wfrun/process/0.5", "Process Run Crate", "0.5"},
		{"https://w3id.org/ro/wfrun/workflow/0.5", "Workflow Run Crate", "0.5"},
		{"https://w3id.org/workflowhub/workflow-ro-crate/1.0", "Workflow RO-Crate", "1.0"},
	}
	var conforms []string
	for _, q := range profiles {
		conforms = append(conforms, q.id)
		g.add(q.id, "CreativeWork", entity{"name": q.name, "version": q.version})
	}

	authors := p.people(g)
	licence(g, p.o.License)
	title := fmt.Sprintf("%s (%s, profile %s)", s.Title, s.Name, s.ProfileName())
	root := g.add("./", "Dataset", entity{
		"name": title,
		"description": fmt.Sprintf("A study reproduced by refocus: %d trained networks, the images that they were trained and validated on, their report and their best models. "+
			"Every run trains again from its manifest; 'refocus audit' draws some and does.", len(p.runs)),
		"datePublished": p.o.now().UTC().Format("2006-01-02"),
		"license":       ref(p.o.License),
		"conformsTo":    refs(conforms),
		"mainEntity":    ref(spec),
		"mentions":      ref(runAction),
	})
	if len(authors) > 0 {
		root["author"] = refs(authors)
	}

	// The workflow and what carried it out.
	g.add(specLanguage, "ComputerLanguage", entity{"name": "refocus study spec (TOML)", "url": homepage})
	workflow := file(spec, "Spec of the study "+s.Name, "The study's design, of which the profile "+s.ProfileName()+" was carried out.", entity{
		"programmingLanguage": ref(specLanguage),
		"conformsTo":          ref("https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"),
		"version":             "sha256:" + p.sums[size[spec]].SHA256,
		"input":               ref("#parameter-images"),
		"output":              []entity{ref("#parameter-runs"), ref("#parameter-report")},
	})
	workflow["@type"] = []string{"File", "SoftwareSourceCode", "ComputationalWorkflow"}
	if p.shipped() {
		licence(g, apache)
		workflow["license"] = ref(apache)
		workflow["isBasedOn"] = published(g)["isBasedOn"]
		root["citation"] = ref(paper)
	}
	var versions []string
	start, end := p.runs[0].Started, p.runs[0].Finished
	for _, m := range p.runs {
		if !slices.Contains(versions, m.Harness) {
			versions = append(versions, m.Harness)
		}
		if m.Started.Before(start) {
			start = m.Started
		}
		if m.Finished.After(end) {
			end = m.Finished
		}
	}
	slices.Sort(versions)
	g.add(homepage, "SoftwareApplication", entity{"name": "refocus", "url": homepage, "softwareVersion": strings.Join(versions, "; ")})
	tools := []string{homepage}
	var environment []string
	for i, b := range p.backends() {
		id := fmt.Sprintf("#backend-%d", i+1)
		tools = append(tools, id)
		e := g.add(id, "SoftwareApplication", entity{
			"name": "refocus backend " + b.Name, "softwareVersion": b.Version,
			"description": fmt.Sprintf("Numerics %s; determinism that it claims: %s.", b.Numerics, b.Determinism),
		})
		if b.SHA256 != "" {
			e["sha256"] = b.SHA256
		}
		numerics := id + "-numerics"
		environment = append(environment, numerics)
		g.add(numerics, "PropertyValue", entity{"name": "numerics of backend " + b.Name, "value": b.Numerics})
	}
	workflow["softwareRequirements"] = refs(tools)

	// What it used and made.
	var sets []string
	for _, m := range p.sets {
		sets = append(sets, p.set(g, m))
	}
	g.add("data/", "Dataset", entity{"name": "Images", "description": "Labelled images in safetensors, a folder each set, named by its digest.", "hasPart": refs(sets), "exampleOfWork": ref("#parameter-images")})
	g.add("runs/", "Dataset", entity{
		"name": fmt.Sprintf("%d runs", len(p.runs)), "exampleOfWork": ref("#parameter-runs"),
		"description": "A folder each run, named by its digest: manifest.json (its whole specification, what trained it, the SHA-256 of its files), history.json, losses.safetensors, weights.safetensors.",
	})
	reports := p.under("reports/")
	report := path.Dir(reports[0]) + "/"
	for _, name := range reports {
		var more entity
		if strings.Contains(path.Base(name), "-published.") {
			more = published(g)
		}
		file(name, path.Base(name), "", more)
	}
	g.add(report, "Dataset", entity{"name": "Report", "description": "The study's results beside the published ones.", "hasPart": refs(reports), "exampleOfWork": ref("#parameter-report")})
	results := []string{"runs/", report}
	g.parts = append(g.parts, spec, "data/", "runs/", report)
	g.parts = append(g.parts, reports...)
	for _, name := range p.under("models/") {
		if path.Ext(name) == ".onnx" {
			file(name, "Segmentation model, "+strings.TrimSuffix(path.Base(name), ".onnx"), "ONNX; the model of the lowest validation loss on this domain.", nil)
			results = append(results, name)
			g.parts = append(g.parts, name)
		}
	}
	for _, name := range p.under("reference/") {
		file(name, path.Base(name), reference.Attribution, published(g))
		g.parts = append(g.parts, name)
	}
	file(host.LockName, "Pins of backends", "SHA-256 of the executables that trained, as refocus wants them pinned.", nil)
	file(studyFile, "Profile and runs", "", nil)
	file(readmeFile, "Read me", "", entity{"about": ref("./")})
	g.add(sumsFile, "File", entity{"name": "SHA-256 of all files", "description": "For 'sha256sum -c'; " + rootFile + " is the root of the Merkle tree (RFC 6962) over its lines.", "encodingFormat": "text/plain"})
	g.add(rootFile, "File", entity{"name": "Merkle root", "encodingFormat": "text/plain"})
	g.parts = append(g.parts, host.LockName, studyFile, readmeFile, sumsFile, rootFile)
	root["hasPart"] = refs(g.parts)

	parameter := func(id, name, example string) {
		g.add(id, "FormalParameter", entity{
			"name": name, "additionalType": "Dataset", "workExample": ref(example),
			"conformsTo": ref("https://bioschemas.org/profiles/FormalParameter/1.0-RELEASE"),
		})
	}
	parameter("#parameter-images", "images", "data/")
	parameter("#parameter-runs", "runs", "runs/")
	parameter("#parameter-report", "report", report)
	g.add(runAction, "CreateAction", entity{
		"name":        "Run of " + title,
		"description": fmt.Sprintf("refocus trained %d networks, each from its manifest's specification, on %s.", len(p.runs), count(len(p.sets), "set of images", "sets of images")),
		"instrument":  ref(spec), "object": ref("data/"), "result": refs(results),
		"startTime": start.UTC().Format(iso8601), "endTime": end.UTC().Format(iso8601),
		"actionStatus": "http://schema.org/CompletedActionStatus", "environment": refs(environment),
	})

	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err := enc.Encode(entity{
		// The terms that are used beyond those of RO-Crate 1.1, and not all of Workflow
		// Run RO-Crate's.
		"@context": []any{"https://w3id.org/ro/crate/1.1/context", entity{
			"sha256": terms + "sha256", "environment": terms + "environment", "creditText": "http://schema.org/creditText",
		}},
		"@graph": g.all,
	})
	return out.Bytes(), err
}

// under lists the files that were written below a folder.
func (p *publication) under(dir string) []string {
	var names []string
	for _, f := range p.sums {
		if strings.HasPrefix(f.Name, dir) {
			names = append(names, f.Name)
		}
	}
	return names
}

// published says whose the published results are, of files that show them.
func published(g *graph) entity {
	licence(g, ccBy)
	if !g.has(paper) {
		g.add(paper, "ScholarlyArticle", entity{
			"name":   "Strategies for effective transfer learning for HRTEM analysis with neural networks",
			"author": []string{"L. Rangel DaCosta", "H. Oill", "M. C. Scott"}, "datePublished": "2025", "identifier": paper,
		})
	}
	return entity{"license": ref(ccBy), "isBasedOn": ref(paper), "creditText": reference.Credit}
}

// people adds the authors.
func (p *publication) people(g *graph) []string {
	var ids []string
	for i, a := range p.o.Authors {
		id := a.URL
		if id == "" {
			id = fmt.Sprintf("#author-%d", i+1)
		}
		if slices.Contains(ids, id) {
			continue
		}
		ids = append(ids, id)
		g.add(id, "Person", entity{"name": a.Name})
	}
	return ids
}

// licence adds a licence, once.
func licence(g *graph, address string) {
	if g.has(address) {
		return
	}
	name := address
	if id, ok := strings.CutPrefix(address, "https://spdx.org/licenses/"); ok {
		name = id
	}
	g.add(address, "CreativeWork", entity{"name": name, "identifier": address})
}

// set adds a set of images.
func (p *publication) set(g *graph, m *dataset.Manifest) string {
	names := map[string]string{}
	for _, n := range p.r.Nodes {
		for _, d := range n.Spec.Data {
			names[d.Digest] = d.Name
		}
		for _, d := range n.Spec.Validation {
			names[d.Digest] = d.Name
		}
	}
	e := entity{
		"name":        fmt.Sprintf("%s images of domain %s", m.Split, names[m.Digest]),
		"description": fmt.Sprintf("%s of %s pixels with their labels, %s.", count(m.Count, "image", "images"), format.Size(m.Height, m.Width), m.Kind),
		"identifier":  m.Digest,
	}
	if sim := m.Simulation(); sim != nil {
		e["description"] = fmt.Sprintf("%s of %s pixels with their labels, simulated: %s at %s and %s, seed %d.",
			count(m.Count, "image", "images"), format.Size(m.Height, m.Width), sim.Config.Crystal, format.Defocus(sim.Conditions.Defocus), format.Dose(sim.Conditions.Dose), m.Seed)
	}
	id := "data/" + m.Digest + "/"
	g.add(id, "Dataset", e)
	return id
}

// shipped reports whether the spec is one that refocus comes with, unchanged.
func (p *publication) shipped() bool {
	b, err := specs.FS.ReadFile(filepath.Base(p.o.File.Path))
	return err == nil && bytes.Equal(b, p.o.File.Content)
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%s %s", format.Count(int64(n)), many)
}

// mediaTypes of files that the system may not know.
var mediaTypes = map[string]string{
	".csv": "text/csv", ".gz": "application/gzip", ".html": "text/html", ".json": "application/json", ".md": "text/markdown",
	".pdf": "application/pdf", ".png": "image/png", ".svg": "image/svg+xml", ".toml": "application/toml", ".txt": "text/plain",
}

func mediaType(name string) string {
	if t := mediaTypes[path.Ext(name)]; t != "" {
		return t
	}
	if t := mime.TypeByExtension(path.Ext(name)); t != "" {
		return t
	}
	return "application/octet-stream"
}

// readme tells people what the crate is.
func (p *publication) readme() []byte {
	s := p.r.Plan.Study
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\nThe study %s, profile %s, reproduced by [refocus](%s): %s and the images that they were trained and validated on.\n\n", s.Title, s.Name, s.ProfileName(), homepage, count(len(p.runs), "trained network", "trained networks"))
	fmt.Fprintf(&b, "| what | where |\n|---|---|\n| the report | %s/index.html |\n| the best model of every target, ONNX | models/ |\n| the spec | study/%s |\n| runs: manifest, history, losses, weights | runs/ |\n| images | data/ |\n| pins of backends | %s |\n| the SHA-256 of every file | %s |\n\n", path.Dir(p.under("reports/")[0]), filepath.Base(p.o.File.Path), host.LockName, sumsFile)
	b.WriteString("This folder is a [Workflow Run RO-Crate](https://w3id.org/ro/wfrun/workflow/0.5) and a store of refocus at once:\n\n")
	fmt.Fprintf(&b, "    sha256sum -c %s     # every file is as it was published\n    refocus audit .          # a random sample, trained again\n\n", sumsFile)
	fmt.Fprintf(&b, "%s is one number that stands for all files; compare it with the one that was told elsewhere.\n\nLicence: %s", rootFile, p.o.License)
	if len(p.under("reference/")) > 0 {
		b.WriteString(", except for reference/, the published tables, whose authors and licence (CC BY 4.0) are in reference/ATTRIBUTION.txt; the report shows them, too")
	}
	b.WriteString(".\n")
	return []byte(b.String())
}
