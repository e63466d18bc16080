// Package testkit holds the folders of what only tests use, the plugins' among
// them:
//
//   - peers decides what a test does without an outside program that it needs;
//   - testnet has networks, images and predictions of the CPU backend;
//   - fakebackend is a backend without arithmetic, in which every difference of
//     what it was asked shows;
//   - tiny has the smallest study, reproduced in the process of a test;
//   - crashfs is a file system that loses what was not synced;
//   - chromium drives pages in a browser;
//   - dmfile writes files of DigitalMicrograph;
//   - seed seeds the random tests, and seeds them again as it did.
package testkit
