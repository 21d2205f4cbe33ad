package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/json"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// A document is one object of a file.
type document struct {
	file   string
	text   []byte
	object unstructured.Unstructured
}

func (d document) String() string {
	return fmt.Sprintf("%s: %s %s", filepath.Base(d.file), d.object.GetKind(), d.object.GetName())
}

// documents reads every object of these files, and of the YAML files of these directories.
func documents(paths []string) ([]document, error) {
	var all []document
	for _, path := range paths {
		files, err := filesOf(path)
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			found, err := objects(file)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
			all = append(all, found...)
		}
	}
	return all, nil
}

func filesOf(path string) ([]string, error) {
	if info, err := os.Stat(path); err != nil || !info.IsDir() {
		return []string{path}, err
	}
	return filepath.Glob(filepath.Join(path, "*.yaml"))
}

func objects(file string) ([]document, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var found []document
	reader := utilyaml.NewDocumentDecoder(io.NopCloser(bytes.NewReader(text)))
	defer reader.Close()
	buffer := make([]byte, len(text)+1)
	for {
		n, err := reader.Read(buffer)
		if errors.Is(err, io.EOF) {
			return found, nil
		} else if err != nil {
			return nil, err
		}
		one := document{file: file, text: bytes.Clone(buffer[:n])}
		// Strict: a key that is there twice is a mistake.
		text, err := yaml.YAMLToJSONStrict(one.text)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(text, &one.object.Object); err != nil {
			return nil, err
		}
		if len(one.object.Object) > 0 {
			found = append(found, one)
		}
	}
}
