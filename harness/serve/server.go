package serve

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/reproduce"
	"github.com/refocus-em/refocus/harness/store"
)

// Options of New.
type Options struct {
	Store *store.Store
	// Specs are files of studies besides those that come with the program.
	Specs []string
	// Models are files of models to segment with, besides those of the store's
	// reports.
	Models []string
	// Backends whose runs are shown; the first predicts.
	Backends []string
	// Describe and Launch ask a backend what it is and start it.
	Describe func(ctx context.Context, name string) (backend.Description, error)
	Launch   func(ctx context.Context, name string) (reproduce.Process, error)
	Version  string
}

// Server is the workbench.
type Server struct {
	o        Options
	token    string
	listener net.Listener
	hosts    map[string]bool // that requests may name
	temp     string          // folder of uploads
	ctx      context.Context // ends with the server

	look    look
	studies studies
	process process
	uploads uploads
}

//go:embed page
var page embed.FS

// New listens on an address of the loopback interface, such as "127.0.0.1:0".
func New(ctx context.Context, address string, o Options) (*Server, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("%s is not an address of this machine alone, such as 127.0.0.1:8080", address)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	token := make([]byte, 16)
	rand.Read(token)
	temp, err := os.MkdirTemp("", "refocus-serve")
	if err != nil {
		l.Close()
		return nil, err
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	s := &Server{o: o, token: hex.EncodeToString(token), listener: l, temp: temp, ctx: ctx, hosts: map[string]bool{}}
	for _, name := range []string{"127.0.0.1", "localhost", "[::1]"} {
		s.hosts[name+":"+port] = true
	}
	s.hosts[l.Addr().String()] = true
	s.studies.s, s.process.s, s.uploads.s = s, s, s
	return s, nil
}

// URL is the workbench's address, token included.
func (s *Server) URL() string { return "http://" + s.listener.Addr().String() + "/" + s.token + "/" }

// Serve answers requests until the context of New ends.
func (s *Server) Serve() error {
	defer os.RemoveAll(s.temp)
	defer s.process.close()
	h := &http.Server{Handler: s.Handler(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10}
	stop := context.AfterFunc(s.ctx, func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		if h.Shutdown(ctx) != nil {
			h.Close()
		}
	})
	defer stop()
	if err := h.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Handler answers the workbench's requests.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	view := func(pattern string, f func(w http.ResponseWriter, r *http.Request) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := f(w, r); err != nil {
				s.fail(w, r, err)
			}
		})
	}
	view("GET /{$}", s.now)
	view("GET /log", s.log)
	view("GET /study", s.study)
	view("GET /runs", s.runs)
	view("GET /run", s.run)
	view("GET /compare", s.compare)
	view("GET /data", s.data)
	view("GET /tile.png", s.tile)
	view("GET /sheet.png", s.sheet)
	view("POST /export", s.export)
	view("GET /micrograph", s.micrograph)
	view("POST /micrograph", s.upload)
	view("GET /micrograph/{id}", s.segmentation)
	view("GET /micrograph/{id}/{file}", s.segmentationFile)
	mux.HandleFunc("GET /page/{file}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-cache")
		sub, _ := fs.Sub(page, "page")
		if name := r.PathValue("file"); strings.HasSuffix(name, ".js") || strings.HasSuffix(name, ".css") {
			http.ServeFileFS(w, r, sub, name)
			return
		}
		http.NotFound(w, r)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if p := recover(); p != nil {
				fmt.Fprintf(os.Stderr, "refocus serve: %s %s: %v\n%s", r.Method, r.URL.Path, p, debug.Stack())
				http.Error(w, "this request made the program fail; its log says how", http.StatusInternalServerError)
			}
		}()
		s.guard(w, r, mux)
	})
}

// guard lets through what may come in.
func (s *Server) guard(w http.ResponseWriter, r *http.Request, next http.Handler) {
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	refuse := func(code int, text string) { http.Error(w, text, code) }
	if !s.hosts[r.Host] {
		refuse(http.StatusMisdirectedRequest, "this is not the host that the request names")
		return
	}
	token, rest, ok := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if !ok || subtle.ConstantTimeCompare([]byte(token), []byte(s.token)) != 1 {
		refuse(http.StatusNotFound, "not found; the address that refocus serve printed has a token")
		return
	}
	if o := r.Header.Get("Origin"); o != "" && o != "http://"+r.Host {
		refuse(http.StatusForbidden, "a page of another origin has sent this request")
		return
	}
	// A link in a message may open a view; another page may not load one.
	navigation := r.Method == http.MethodGet && r.Header.Get("Sec-Fetch-Mode") == "navigate" && r.Header.Get("Sec-Fetch-Dest") == "document"
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" && !navigation {
		refuse(http.StatusForbidden, "another page has sent this request")
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead && r.Header.Get("X-Refocus") == "" {
		refuse(http.StatusForbidden, "this needs the header X-Refocus, which the workbench's own page sends")
		return
	}
	u := *r.URL
	u.Path, u.RawPath = "/"+rest, ""
	r2 := r.Clone(r.Context())
	r2.URL = &u
	next.ServeHTTP(w, r2)
}

// problem is an error with the status that it is answered with.
type problem struct {
	code int
	error
}

func (p *problem) Unwrap() error { return p.error }

func notFound(format string, args ...any) error {
	return &problem{http.StatusNotFound, fmt.Errorf(format, args...)}
}

func wrong(format string, args ...any) error {
	return &problem{http.StatusBadRequest, fmt.Errorf(format, args...)}
}

func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil { // nobody listens
		return
	}
	code := http.StatusInternalServerError
	var p *problem
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &p):
		code = p.code
	case errors.As(err, &large):
		code = http.StatusRequestEntityTooLarge
	}
	if r.Method == http.MethodGet && strings.Contains(r.Header.Get("Accept"), "text/html") {
		s.render(w, r, code, "error.html", view{Title: "That did not work", Body: err.Error()})
		return
	}
	http.Error(w, err.Error(), code)
}

// view is what every page has.
type view struct {
	Title   string
	Here    string // of the navigation
	Version string
	Store   string
	Body    any
}

var templates = template.Must(template.New("").Funcs(template.FuncMap{
	"join": strings.Join,
}).ParseFS(page, "page/*.html"))

// render answers with a page, which is made as a whole before any of it is sent; to who
// has the same one already, with that.
func (s *Server) render(w http.ResponseWriter, r *http.Request, code int, name string, v view) error {
	v.Version, v.Store = s.o.Version, s.o.Store.Root()
	var b bytes.Buffer
	if err := templates.ExecuteTemplate(&b, name, v); err != nil {
		return err
	}
	sum := sha256.Sum256(b.Bytes())
	tag := `"` + hex.EncodeToString(sum[:16]) + `"`
	w.Header().Set("ETag", tag)
	if code == http.StatusOK && r.Header.Get("If-None-Match") == tag {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(code)
	_, err := b.WriteTo(w)
	return err
}

func (s *Server) show(w http.ResponseWriter, r *http.Request, name, here, title string, body any) error {
	return s.render(w, r, http.StatusOK, name, view{Title: title, Here: here, Body: body})
}

func writeJSON(w http.ResponseWriter, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_, err = w.Write(b)
	return err
}

// process is the backend that predicts, started when it is first needed, and again
// when it was lost.
type process struct {
	s  *Server
	mu sync.Mutex
	p  reproduce.Process
}

// with calls f with the backend's process, one call at a time. A process that
// failed is given up.
func (p *process) with(f func(b backend.Backend) error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.p == nil {
		var err error
		if p.p, err = p.s.o.Launch(p.s.ctx, p.s.o.Backends[0]); err != nil {
			return err
		}
	}
	err := f(p.p)
	if err != nil && p.s.ctx.Err() == nil {
		p.p.Close()
		p.p = nil
	}
	return err
}

func (p *process) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.p != nil {
		p.p.Close()
		p.p = nil
	}
}
