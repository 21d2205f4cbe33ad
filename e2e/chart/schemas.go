package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// schemas writes GROUP_KIND_VERSION.json for every kind of Kubernetes' OpenAPI documents and of the definitions. They are
// strict: a field that is not named there is a mistake.
func schemas(out, openapi string, definitions []string) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(openapi, "*.json"))
	if err != nil || len(files) == 0 {
		return fmt.Errorf("%s: no OpenAPI documents: %v", openapi, err)
	}
	for _, file := range files {
		if err := ofKubernetes(out, file); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	all, err := documents(definitions)
	if err != nil {
		return err
	}
	for _, one := range all {
		if err := ofDefinition(out, one); err != nil {
			return fmt.Errorf("%s: %w", one, err)
		}
	}
	return nil
}

func ofKubernetes(out, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var document struct {
		Components struct{ Schemas map[string]map[string]any }
	}
	if err := json.Unmarshal(text, &document); err != nil {
		return err
	}
	known := document.Components.Schemas
	for name, schema := range known {
		kinds, _ := schema["x-kubernetes-group-version-kind"].([]any)
		if len(kinds) != 1 {
			// None, or what belongs to every group: options, events of watches.
			continue
		}
		of := kinds[0].(map[string]any)
		used := map[string]any{}
		collect(known, name, used)
		whole := map[string]any{"$ref": "#/definitions/" + name, "definitions": used}
		if err := write(out, of["kind"].(string), of["group"].(string), of["version"].(string), whole); err != nil {
			return err
		}
	}
	return nil
}

// collect adds the schema `name`, and those that it refers to.
func collect(known map[string]map[string]any, name string, used map[string]any) {
	if _, done := used[name]; done {
		return
	}
	used[name] = nil
	used[name] = strict(known[name], func(reference string) string {
		inner := strings.TrimPrefix(reference, "#/components/schemas/")
		collect(known, inner, used)
		return "#/definitions/" + inner
	})
}

func ofDefinition(out string, one document) error {
	spec, _ := one.object.Object["spec"].(map[string]any)
	names, _ := spec["names"].(map[string]any)
	versions, _ := spec["versions"].([]any)
	for _, version := range versions {
		version := version.(map[string]any)
		open := version["schema"].(map[string]any)["openAPIV3Schema"].(map[string]any)
		properties := open["properties"].(map[string]any)
		properties["apiVersion"] = map[string]any{"type": "string"}
		properties["kind"] = map[string]any{"type": "string"}
		// What it holds is the same for every kind, and judged with those of Kubernetes.
		properties["metadata"] = map[string]any{"type": "object"}
		whole := strict(open, func(reference string) string { return reference })
		if err := write(out, names["kind"].(string), spec["group"].(string), version["name"].(string), whole); err != nil {
			return err
		}
	}
	return nil
}

func write(out, kind, group, version string, schema any) error {
	if group == "" {
		// kubeconform's name for the group that has none.
		group = version
	}
	text, err := json.Marshal(schema)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(out, fmt.Sprintf("%s_%s_%s.json", group, strings.ToLower(kind), version)), text, 0o644)
}

// strict turns OpenAPI into JSON Schema: no field but those named, references where `refer` says they lead, and without
// what only OpenAPI knows.
func strict(node any, refer func(string) string) any {
	switch node := node.(type) {
	case []any:
		all := make([]any, len(node))
		for i := range node {
			all[i] = strict(node[i], refer)
		}
		return all
	case map[string]any:
		return strictObject(node, refer)
	}
	return node
}

func strictObject(node map[string]any, refer func(string) string) any {
	if node["x-kubernetes-int-or-string"] == true || node["format"] == "int-or-string" {
		return map[string]any{"type": []string{"string", "integer"}}
	}
	done := map[string]any{}
	for key, value := range node {
		switch key {
		case "$ref":
			done[key] = refer(value.(string))
		case "properties":
			fields := map[string]any{}
			for name, inner := range value.(map[string]any) {
				fields[name] = strict(inner, refer)
			}
			done[key] = fields
		case "default", "description", "nullable", "format":
			// Nothing that an object could break.
		default:
			if !strings.HasPrefix(key, "x-kubernetes-") {
				done[key] = strict(value, refer)
			}
		}
	}
	_, named := done["properties"]
	_, open := done["additionalProperties"]
	if named && !open && node["x-kubernetes-preserve-unknown-fields"] != true {
		done["additionalProperties"] = false
	}
	return done
}
