package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// fail notes an error. Lines and columns begin at 1.
func (p *fileParser) fail(line, column, width int, format string, args ...any) {
	if len(p.errs) == maxFileErrors {
		p.dropped++
		return
	}
	if n := len(p.lines); n > 0 && line > n { // the end, which the parser may take for a line of its own
		line, column = n, utf8.RuneCountInString(p.lines[n-1])+1
	}
	e := &FileError{File: p.file.Name, Line: max(1, line), Column: max(1, column), Width: max(1, width), Msg: fmt.Sprintf(format, args...)}
	if len(p.lines) > 0 {
		e.Source = p.lines[e.Line-1]
	}
	p.errs = append(p.errs, e)
}

// count counts the errors so far.
func (p *fileParser) count() int { return len(p.errs) + p.dropped }

// failAt notes an error about a node.
func (p *fileParser) failAt(n *yaml.Node, format string, args ...any) {
	width := 1
	if n.Kind == yaml.ScalarNode {
		width = utf8.RuneCountInString(n.Value)
		if n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0 {
			width += 2
		}
		if n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
			width = 1
		}
	}
	p.fail(n.Line, n.Column, width, format, args...)
}

// failIn notes an error about a part of a scalar, by offsets into its value.
func (p *fileParser) failIn(t fileText, start, end int, format string, args ...any) {
	n := t.node
	start, end = t.start+start, t.start+end
	column := n.Column
	if n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0 {
		column++
	}
	// Where the value stands in the source as it is, without escapes and line breaks, the part can
	// be pointed at.
	if n.Line >= 1 && n.Line <= len(p.lines) && end <= len(n.Value) {
		if line := []rune(p.lines[n.Line-1]); column-1 <= len(line) && strings.HasPrefix(string(line[column-1:]), n.Value) {
			p.fail(n.Line, column+utf8.RuneCountInString(n.Value[:start]), utf8.RuneCountInString(n.Value[start:end]), format, args...)
			return
		}
	}
	p.failAt(n, format, args...)
}

// parse returns the root of the document, or nil and has noted an error.
func (p *fileParser) parse(text []byte) *yaml.Node {
	if !p.checkText(text) {
		return nil
	}
	loader, err := yaml.NewLoader(bytes.NewReader(text))
	var document, second yaml.Node
	if err == nil {
		err = loader.Load(&document)
	}
	if errors.Is(err, io.EOF) || err == nil && (document.Kind != yaml.DocumentNode || len(document.Content) == 0) {
		p.fail(1, 1, 1, "nothing in it; a policy begins with version: 1")
		return nil
	}
	if err == nil {
		if err = loader.Load(&second); err == nil {
			n := &second
			if len(n.Content) > 0 {
				n = n.Content[0]
			}
			p.fail(n.Line, n.Column, 1, "a second document begins here; a policy is one (remove the --- before it)")
			return nil
		}
		if errors.Is(err, io.EOF) {
			return document.Content[0]
		}
	}
	p.syntax(err)
	return nil
}

// checkText notes what the parser would report without a place.
func (p *fileParser) checkText(text []byte) bool {
	line, column := 1, 1
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRune(text[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			p.fail(line, column, 1, "not UTF-8")
			return false
		case r == '\n':
			line, column = line+1, 0
		case r == '\r':
			if i+1 >= len(text) || text[i+1] != '\n' {
				line, column = line+1, 0
			}
		case r < 0x20 && r != '\t', r >= 0x7f && r < 0xa0, r == '\u2028', r == '\u2029', r == 0xfffe, r == 0xffff, r == '\ufeff' && i > 0:
			p.fail(line, column, 1, "a control character, U+%04X", r)
			return false
		case r == '\ufeff':
			column--
		}
		i += size
		column++
	}
	return true
}

// syntax notes an error of the YAML parser, with what was probably meant.
func (p *fileParser) syntax(err error) {
	var e *yaml.LoadError
	if !errors.As(err, &e) {
		p.fail(1, 1, 1, "not YAML: %v", err)
		return
	}
	mark := e.Mark
	msg := e.Message
	switch {
	case strings.Contains(e.ContextMsg, "scanning an alias"), strings.HasPrefix(msg, "unknown anchor"):
		if e.ContextMark.Line > 0 {
			mark = e.ContextMark
		}
		msg = `an alias, which a policy cannot have; every address is written "*", with the quotes`
	case strings.HasPrefix(msg, "mapping values are not allowed"):
		msg = "a colon with a space behind it cannot stand here; routes are written without the space, as in via: netns:blue"
	case mark.Line >= 1 && mark.Line <= len(p.lines) && strings.HasPrefix(strings.TrimLeft(p.lines[mark.Line-1], " "), "\t") && strings.Contains(msg, "cannot start any token"):
		msg = "YAML is indented by spaces, not by tabs"
	case e.ContextMsg != "" && e.ContextMark.Line > 0:
		msg = fmt.Sprintf("not YAML: %s, %s that begins on line %d", msg, e.ContextMsg, e.ContextMark.Line)
	default:
		msg = "not YAML: " + msg
	}
	for mark.Line > 1 && (mark.Line > len(p.lines) || p.lines[mark.Line-1] == "") { // the end of the file: there is nothing to see
		mark.Line--
		if mark.Line <= len(p.lines) {
			mark.Column = utf8.RuneCountInString(p.lines[mark.Line-1]) + 1
		}
	}
	p.fail(mark.Line, mark.Column, 1, "%s", msg)
}

// splitLines splits text where YAML sees the end of a line.
func splitLines(text string) []string {
	return strings.Split(strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), "\r", "\n"), "\n")
}

// plain notes what a policy cannot have, and reports whether the node is without it.
func (p *fileParser) plain(n *yaml.Node) bool {
	switch {
	case n.Kind == yaml.AliasNode:
		p.fail(n.Line, n.Column, 1+len(n.Value), `an alias, which a policy cannot have; every address is written "*", with the quotes`)
	case n.Anchor != "":
		p.fail(n.Line, n.Column, 1+len(n.Anchor), "an anchor, which a policy cannot have; write the value out")
	case n.Style&yaml.TaggedStyle != 0:
		p.fail(n.Line, n.Column, len(n.Tag), "a tag, which a policy cannot have")
	default:
		return true
	}
	return false
}

// mapping returns the values of a mapping by their keys, those only that are known and there once.
// Everything else is noted.
func (p *fileParser) mapping(n *yaml.Node, what string, keys []fileKey) map[string]*yaml.Node {
	if !p.plain(n) {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		p.failAt(n, "%s is a mapping, with the keys %s", what, keyNames(keys))
		return nil
	}
	values, lines := map[string]*yaml.Node{}, map[string]int{}
	merged := false
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if !p.plain(key) {
			continue
		}
		if key.Kind != yaml.ScalarNode {
			p.failAt(key, "not a key; %s has the keys %s", what, keyNames(keys))
			continue
		}
		if key.Value == "<<" && key.Tag == "!!merge" {
			p.failAt(key, "a merge key, which a policy cannot have; write the keys out")
			merged = true
			continue
		}
		if !slices.ContainsFunc(keys, func(k fileKey) bool { return k.name == key.Value }) {
			if meant := meantKey(key.Value, keys); meant != "" {
				p.failAt(key, "unknown key %q; did you mean %q?", key.Value, meant)
			} else {
				p.failAt(key, "unknown key %q; %s has the keys %s", key.Value, what, keyNames(keys))
			}
			continue
		}
		if line, ok := lines[key.Value]; ok {
			p.failAt(key, "%q is there already, on line %d; write both as one", key.Value, line)
			continue
		}
		values[key.Value], lines[key.Value] = value, key.Line
	}
	for _, k := range keys {
		if k.required && !merged && lines[k.name] == 0 && !misspelt(n, k, keys) {
			p.fail(n.Line, n.Column, 1, "%s needs %q, for example %s", what, k.name, k.example)
		}
	}
	return values
}

func keyNames(keys []fileKey) string {
	names := make([]string, len(keys))
	for i, k := range keys {
		names[i] = k.name
	}
	return strings.Join(names, ", ")
}

// meantKey returns the key that is called name by mistake, or "".
func meantKey(name string, keys []fileKey) string {
	var names []string
	lower := strings.ToLower(name)
	for _, k := range keys {
		if slices.Contains(k.others, lower) || k.name == lower {
			return k.name
		}
		names = append(names, k.name)
	}
	return closest(lower, names)
}

// misspelt reports whether a key is missing because it is misspelt, which has been noted.
func misspelt(n *yaml.Node, k fileKey, keys []fileKey) bool {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value != k.name && meantKey(n.Content[i].Value, keys) == k.name {
			return true
		}
	}
	return false
}

// sequence returns the elements of a sequence.
func (p *fileParser) sequence(n *yaml.Node, key fileKey, what string) []*yaml.Node {
	if !p.plain(n) {
		return nil
	}
	if n.Kind != yaml.SequenceNode {
		p.failAt(n, "%s is a list %s, each with a dash before it: %s", key.name, what, key.example)
		return nil
	}
	return n.Content
}

// scalar returns a value that is one piece of text.
func (p *fileParser) scalar(n *yaml.Node, key fileKey) (fileText, bool) {
	if !p.plain(n) {
		return fileText{}, false
	}
	switch {
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null" && n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) == 0:
		p.failAt(n, "%s has no value; for example %s", key.name, key.example)
	case n.Kind != yaml.ScalarNode:
		p.failAt(n, "%s is one value; for example %s", key.name, key.example)
	default:
		return fileText{n.Value, n, 0}, true
	}
	return fileText{}, false
}

// list returns the values of a list, which may also be written as one value or several with commas
// between.
func (p *fileParser) list(n *yaml.Node, key fileKey) (texts []fileText) {
	if n.Kind == yaml.SequenceNode {
		if p.plain(n) && len(n.Content) == 0 {
			p.failAt(n, "an empty list; for example %s", key.example)
		}
		for _, element := range n.Content {
			if t, ok := p.scalar(element, key); ok {
				texts = append(texts, t)
			}
		}
		return texts
	}
	whole, ok := p.scalar(n, key)
	if !ok {
		return nil
	}
	at := 0
	for part := range strings.SplitSeq(whole.text, ",") {
		trimmed := strings.Trim(part, " \t")
		texts = append(texts, fileText{trimmed, n, at + strings.Index(part, trimmed)})
		at += len(part) + 1
	}
	return texts
}
