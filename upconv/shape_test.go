package upconv_test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// The limits of what a reader has to hold in the head. Tests and generated files have none.
const (
	maxPackageLines  = 2500
	maxFileLines     = 600
	maxFunctionLines = 80
	maxParameters    = 5

	maxCommentColumns = 100 // of a line that is all comment; a tab is one column
)

// exemptions says of what is above a limit how large it may be: a package or a file by its path, a
// function by its package and name, and "(parameters)" behind the name for how many it has. The
// numbers may shrink, and not grow: give what is new a shape that needs none.
var exemptions = map[string]int{
	// This runs in a child that shares its parent's memory, where a call could grow the stack.
	"upconv/internal/spawn Plan.Fork": 201,
}

// TestShape holds that packages, files, functions and lists of parameters stay small enough to be
// read, and that an exemption goes when nothing needs it any more.
func TestShape(t *testing.T) {
	const root = ".."
	exempt := map[string]bool{} // exemptions that something needs
	check := func(what string, size, limit int) {
		allowed, ok := exemptions[what]
		switch {
		case size <= limit:
		case !ok:
			t.Errorf("%s: %d, and the limit is %d", what, size, limit)
		case size > allowed:
			t.Errorf("%s: %d, which its exemption says is %d: it may shrink, and not grow", what, size, allowed)
		case size < allowed-allowed/20:
			t.Errorf("%s: %d, and its exemption of %d is too generous: write %d there", what, size, allowed, size)
		}
		exempt[what] = exempt[what] || size > limit
	}

	packages := map[string]int{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if entry.Name() == "testdata" || strings.HasPrefix(entry.Name(), ".") && path != root {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		positions := token.NewFileSet()
		file, err := parser.ParseFile(positions, path, text, parser.ParseComments)
		if err != nil {
			return err
		}
		if ast.IsGenerated(file) {
			return nil
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		lines := bytes.Count(text, []byte("\n"))
		packages[filepath.Dir(name)] += lines
		check(name, lines, maxFileLines)
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			first, last := positions.Position(f.Pos()), positions.Position(f.End())
			function := filepath.Dir(name) + " " + nameOf(f)
			check(function, last.Line-first.Line+1, maxFunctionLines)
			check(function+" (parameters)", f.Type.Params.NumFields(), maxParameters)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, lines := range packages {
		check(name, lines, maxPackageLines)
	}
	for what := range exemptions {
		if !exempt[what] {
			t.Errorf("%s is not above a limit any more: take its exemption away", what)
		}
	}
}

// TestCommentWidth holds that comments can be read without scrolling. What is set off by a tab, a
// drawing or a line of code, may be wider.
func TestCommentWidth(t *testing.T) {
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for i, line := range strings.Split(string(text), "\n") {
			if !strings.HasPrefix(strings.TrimLeft(line, "\t"), "// ") {
				continue
			}
			if columns := utf8.RuneCountInString(line); columns > maxCommentColumns {
				t.Errorf("%s:%d: a comment of %d columns, and the limit is %d", path, i+1, columns, maxCommentColumns)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// nameOf returns the name of a function, behind that of its receiver's type for a method.
func nameOf(f *ast.FuncDecl) string {
	if f.Recv == nil {
		return f.Name.Name
	}
	of := f.Recv.List[0].Type
	if star, ok := of.(*ast.StarExpr); ok {
		of = star.X
	}
	if generic, ok := of.(*ast.IndexExpr); ok {
		of = generic.X
	}
	return of.(*ast.Ident).Name + "." + f.Name.Name
}

// TestFileTable holds that the tables of files in docs/architecture.md have each file of the
// packages that they are about once, and no other.
func TestFileTable(t *testing.T) {
	text, err := os.ReadFile("../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]string{} // names of files, by folder
	for header, folderOf := range map[string]func(row []string) (folder, names string){
		"| files of upconv | subject |\n| --- | --- |\n":       func(row []string) (string, string) { return ".", row[1] },
		"| package | files | subject |\n| --- | --- | --- |\n": func(row []string) (string, string) { return strings.TrimSpace(row[1]), row[2] },
	} {
		_, table, found := strings.Cut(string(text), header)
		if !found {
			t.Fatalf("there is no table %q", header)
		}
		table, _, _ = strings.Cut(table, "\n\n")
		for row := range strings.Lines(table) {
			folder, names := folderOf(strings.Split(row, "|"))
			listed[folder] += names + ","
		}
	}
	for folder, names := range listed {
		checkFileTable(t, folder, names)
	}
}

// checkFileTable checks the names of files, between commas, that are listed of a folder.
func checkFileTable(t *testing.T, folder, names string) {
	rows := map[string]int{}
	for name := range strings.SplitSeq(names, ",") {
		if name = strings.TrimSpace(name); name != "" {
			rows[name+".go"]++
		}
	}
	files, err := filepath.Glob(filepath.Join(folder, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		name := filepath.Base(path)
		if strings.HasSuffix(name, "_test.go") || name == "doc.go" {
			continue
		}
		if rows[name] != 1 {
			t.Errorf("%s is %d times in the tables, and should be once", path, rows[name])
		}
		delete(rows, name)
	}
	for name := range rows {
		t.Errorf("%s is in the tables, and there is no such file", filepath.Join(folder, name))
	}
}

// TestPathsInDocs holds that files exist which the documents name with the folder that they are in.
func TestPathsInDocs(t *testing.T) {
	documents, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	path := regexp.MustCompile("`[a-z0-9_/]+/[a-z0-9_]+\\.go`")
	found := 0
	for _, document := range documents {
		text, err := os.ReadFile(document)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range path.FindAllString(string(text), -1) {
			found++
			name = strings.Trim(name, "`")
			exists := func(folder string) bool {
				_, err := os.Stat(filepath.Join(folder, name))
				return err == nil
			}
			if !slices.ContainsFunc([]string{"..", ".", "internal"}, exists) {
				t.Errorf("%s: there is no %s", document, name)
			}
		}
	}
	if found < 20 {
		t.Errorf("only %d are named", found)
	}
}
