package policy

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// FileError says what is wrong in a policy file and where.
type FileError struct {
	File         string
	Line, Column int    // 1 is the first; columns count characters
	Source       string // the line
	Width        int    // of the part that is wrong, in characters; at least 1
	Msg          string
}

// Error returns FILE:LINE:COLUMN and what is wrong.
func (e *FileError) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Msg)
}

// caretMargin is how much of a long line is shown before and behind the part that is wrong.
const caretMargin = 60

// Caret returns two lines, the source and carets under the part that is wrong, for a terminal.
// Characters that are not to be printed come out as "?".
func (e *FileError) Caret() string {
	line := []rune(e.Source)
	start := min(e.Column-1, len(line))
	end := max(start+1, min(start+e.Width, len(line)))
	from, to := 0, len(line)
	ahead, behind := "", ""
	if start > 2*caretMargin {
		from, ahead = start-caretMargin, "..."
	}
	if to-end > 2*caretMargin {
		to, behind = end+caretMargin, "..."
	}
	if end-from > 6*caretMargin {
		end = from + 6*caretMargin
		to, behind = end, "..."
	}
	var b, pad strings.Builder
	b.WriteString(ahead)
	pad.WriteString(strings.Repeat(" ", len(ahead)))
	for i, r := range line[from:to] {
		if r != '\t' && !unicode.IsPrint(r) || r == utf8.RuneError {
			r = '?'
		}
		b.WriteRune(r)
		if from+i < start {
			if r != '\t' {
				r = ' '
			}
			pad.WriteRune(r)
		}
	}
	return b.String() + behind + "\n" + pad.String() + strings.Repeat("^", end-start)
}

// FileErrors are all errors of a policy file, in the order of their places. There is at least one.
type FileErrors []*FileError

// Error returns one line for each.
func (e FileErrors) Error() string {
	lines := make([]string, len(e))
	for i := range e {
		lines[i] = e[i].Error()
	}
	return strings.Join(lines, "\n")
}
