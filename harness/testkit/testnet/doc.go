// Package testnet has networks, images and predictions for the tests of ONNX
// export and import.
package testnet
