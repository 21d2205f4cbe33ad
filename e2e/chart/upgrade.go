package main

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	definition "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// What the API server lets nobody change.
var fixed = map[string][][]string{
	"ClusterRoleBinding": {{"roleRef"}},
	"CSIDriver":          {{"spec", "attachRequired"}, {"spec", "volumeLifecycleModes"}},
	"DaemonSet":          {{"spec", "selector"}},
	"Deployment":         {{"spec", "selector"}},
	"RoleBinding":        {{"roleRef"}},
}

// upgrade fails if an object of the newer manifests cannot take the place of the older.
func upgrade(older, newer string) error {
	before, err := documents([]string{older})
	if err != nil {
		return err
	}
	after, err := documents([]string{newer})
	if err != nil {
		return err
	}
	was := map[string]document{}
	for _, one := range before {
		was[identity(one)] = one
	}
	var wrong []error
	same := 0
	for _, one := range after {
		if old, there := was[identity(one)]; there {
			same++
			wrong = append(wrong, replace(old, one))
		}
	}
	if err := errors.Join(wrong...); err != nil {
		return err
	}
	fmt.Printf("%d of %d objects go on in place\n", same, len(before))
	return nil
}

func identity(one document) string {
	return fmt.Sprintf("%s %s/%s", one.object.GroupVersionKind(), one.object.GetNamespace(), one.object.GetName())
}

func replace(old, new document) error {
	if new.object.GetKind() == "CustomResourceDefinition" {
		return redefine(old, new)
	}
	for _, path := range fixed[new.object.GetKind()] {
		then, _, _ := unstructured.NestedFieldNoCopy(old.object.Object, path...)
		now, _, _ := unstructured.NestedFieldNoCopy(new.object.Object, path...)
		if !equality.Semantic.DeepEqual(then, now) {
			return fmt.Errorf("%s: %v cannot be changed, from %v to %v", new, path, then, now)
		}
	}
	return nil
}

func redefine(old, new document) error {
	was, err := internalOf(old)
	if err != nil {
		return fmt.Errorf("%s: %w", old, err)
	}
	is, err := internalOf(new)
	if err != nil {
		return fmt.Errorf("%s: %w", new, err)
	}
	was.ResourceVersion, is.ResourceVersion = "1", "1"
	// What is served may change less than what is not.
	was.Status.Conditions = []apiextensions.CustomResourceDefinitionCondition{{Type: apiextensions.Established, Status: apiextensions.ConditionTrue}}
	is.Status = was.Status
	if errs := definition.ValidateCustomResourceDefinitionUpdate(context.Background(), &is, &was); len(errs) > 0 {
		return fmt.Errorf("%s: %w", new, errs.ToAggregate())
	}
	return nil
}
