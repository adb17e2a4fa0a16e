//go:build linux && race

package nsdial_test

const raceEnabled = true
