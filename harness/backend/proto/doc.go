// Package backendpb is the generated code of backend.proto, the service between
// the harness and a backend plugin. Only harness/backend/plugin uses it; Go authors
// implement backend.Backend instead.
//
// Regenerating needs protoc 3.21 or later and
//
//	go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
//	go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2
package backendpb

//go:generate protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative backend.proto
