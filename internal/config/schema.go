package config

import (
	"reflect"
	"sort"
	"strings"
)

// fieldAt finds the type of the field at a TOML key, array indices left out.
func fieldAt(t reflect.Type, key []string) (reflect.Type, bool) {
	for _, k := range key {
		for t.Kind() == reflect.Slice {
			t = t.Elem()
		}
		if t.Kind() != reflect.Struct {
			return nil, false
		}
		f, ok := fieldNamed(t, k)
		if !ok {
			return nil, false
		}
		t = f
	}
	return t, len(key) > 0
}

func fieldNamed(t reflect.Type, name string) (reflect.Type, bool) {
	for i := range t.NumField() {
		if tomlName(t.Field(i)) == name {
			return t.Field(i).Type, true
		}
	}
	return nil, false
}

func tomlName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("toml"), ",")
	return name
}

// keysAt lists the keys that a table takes.
func keysAt(t reflect.Type, table []string) []string {
	if len(table) > 0 {
		var ok bool
		if t, ok = fieldAt(t, table); !ok {
			return nil
		}
	}
	for t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	var keys []string
	for i := range t.NumField() {
		keys = append(keys, tomlName(t.Field(i)))
	}
	sort.Strings(keys)
	return keys
}

// typeName says what a person must write.
func typeName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a string in quotes"
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "a whole number"
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Struct {
			return "a list of tables"
		}
		return "a list of strings"
	}
	return "a table"
}

func example(key string, t reflect.Type) string {
	name := key[strings.LastIndexByte(key, '.')+1:]
	switch t.Kind() {
	case reflect.String:
		return name + ` = "..."`
	case reflect.Bool:
		return name + " = true"
	case reflect.Int:
		return name + " = 1"
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Struct {
			return "[[" + key + "]]"
		}
		return name + ` = ["..."]`
	}
	return "[" + key + "]"
}
