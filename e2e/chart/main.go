// What an API server would say of definitions and objects, without one: its own code judges them.
//
//	crd-check judge DIRECTORY|FILE...      definitions, and then objects of their kinds, each as if it were created
//	crd-check upgrade OLD NEW             whether the manifests NEW may take the place of OLD
//	crd-check schemas OUT OPENAPI DIRECTORY|FILE...   JSON schemas for kubeconform: of Kubernetes' own kinds, and of these definitions
//
// An object with the annotation "refused" must be refused with that text; any other must be taken as it stands.
package main

import (
	"fmt"
	"os"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "crd-check: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) > 1 && args[0] == "judge":
		return judge(args[1:])
	case len(args) == 3 && args[0] == "upgrade":
		return upgrade(args[1], args[2])
	case len(args) > 2 && args[0] == "schemas":
		return schemas(args[1], args[2], args[3:])
	}
	return fmt.Errorf("call it as: judge FILE... | upgrade OLD NEW | schemas OUT OPENAPI FILE...")
}
