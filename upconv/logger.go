package upconv

import (
	"fmt"
	"log/slog"
	"os"
)

// NewLogger returns the logger of upconv's own messages, on standard error. level is debug, info,
// warn or error, "" for warn; format is text or json, "" for text.
func NewLogger(level, format string) (*slog.Logger, error) {
	var min slog.Level
	switch level {
	case "":
		min = slog.LevelWarn
	case "debug", "info", "warn", "error":
		min.UnmarshalText([]byte(level))
	default:
		return nil, fmt.Errorf("log level %q: not one of debug, info, warn, error", level)
	}
	options := &slog.HandlerOptions{Level: min}
	switch format {
	case "", "text":
		return slog.New(slog.NewTextHandler(os.Stderr, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(os.Stderr, options)), nil
	}
	return nil, fmt.Errorf("log format %q: not one of text, json", format)
}
