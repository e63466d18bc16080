// Package trained is for what a study has trained: it opens a finished run with
// its network, finds the best of several, describes it to its users, exports it,
// predicts with it and draws what it predicts.
package trained
