// Package doctor finds out what this host can do for upconv, and says what helps where it cannot:
// the kernel's features, what a filter around upconv refuses, privileges, limits and routes.
package doctor
