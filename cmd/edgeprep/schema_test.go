package main

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// validates says whether a JSON file is what a published schema says: [!] validates SCHEMA FILE.
func validates(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: validates SCHEMA FILE")
	}
	_, source, _, _ := runtime.Caller(0)
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	schema, err := c.Compile(filepath.Join(filepath.Dir(source), "../../docs/schema", args[0]))
	ts.Check(err)
	data, err := os.ReadFile(ts.MkAbs(args[1]))
	ts.Check(err)
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	ts.Check(err)
	switch err := schema.Validate(doc); {
	case err != nil && !neg:
		ts.Fatalf("%s: %v", args[1], err)
	case err == nil && neg:
		ts.Fatalf("%s validates", args[1])
	}
}
