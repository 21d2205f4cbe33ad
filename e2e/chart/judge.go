package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/install"
	v1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	definition "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/runtime"
	k8sschema "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
)

const refused = "refused"

// A kind is what is asked when an object of it is created.
type kind struct {
	structural *schema.Structural
	schema     validation.SchemaValidator
	rules      *cel.Validator
}

// judge fails if a definition is not accepted, or an object is not judged as it should be.
func judge(paths []string) error {
	all, err := documents(paths)
	if err != nil {
		return err
	}
	var wrong []error
	kinds := map[k8sschema.GroupVersionKind]kind{}
	for _, one := range all {
		if one.object.GetKind() == "CustomResourceDefinition" {
			wrong = append(wrong, define(one, kinds))
		}
	}
	taken, turned := 0, 0
	for _, one := range all {
		of, known := kinds[one.object.GroupVersionKind()]
		if !known {
			continue
		}
		why, expects := one.object.GetAnnotations()[refused]
		errs := of.create(one.object.Object)
		switch {
		case !expects && len(errs) > 0:
			wrong = append(wrong, fmt.Errorf("%s: %w", one, errs.ToAggregate()))
		case expects && !strings.Contains(fmt.Sprint(errs), why):
			wrong = append(wrong, fmt.Errorf("%s: not refused with %q but with %v", one, why, errs))
		case expects:
			turned++
		default:
			taken++
		}
	}
	if err := errors.Join(wrong...); err != nil {
		return err
	}
	fmt.Printf("%d definitions accepted, %d objects taken, %d refused as they should be\n", len(kinds), taken, turned)
	return nil
}

// internalOf is a definition as the API server has it in memory.
func internalOf(one document) (internal apiextensions.CustomResourceDefinition, err error) {
	scheme := runtime.NewScheme()
	install.Install(scheme)
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	object, _, err := decoder.Decode(one.text, nil, &v1.CustomResourceDefinition{})
	if err != nil {
		return internal, err
	}
	scheme.Default(object)
	return internal, scheme.Convert(object, &internal, nil)
}

// define adds the kinds of a definition: its schema must be structural, its rules must compile at a bounded cost.
func define(one document, kinds map[k8sschema.GroupVersionKind]kind) error {
	internal, err := internalOf(one)
	if err != nil {
		return fmt.Errorf("%s: %w", one, err)
	}
	if errs := definition.ValidateCustomResourceDefinition(context.Background(), &internal); len(errs) > 0 {
		return fmt.Errorf("%s: %w", one, errs.ToAggregate())
	}
	for _, version := range internal.Spec.Versions {
		whole, err := apiextensions.GetSchemaForVersion(&internal, version.Name)
		if err != nil {
			return fmt.Errorf("%s: %w", one, err)
		}
		of, err := judged(whole.OpenAPIV3Schema)
		if err != nil {
			return fmt.Errorf("%s: %w", one, err)
		}
		kinds[k8sschema.GroupVersionKind{Group: internal.Spec.Group, Version: version.Name, Kind: internal.Spec.Names.Kind}] = of
	}
	return nil
}

func judged(open *apiextensions.JSONSchemaProps) (kind, error) {
	structural, err := schema.NewStructural(open)
	if err != nil {
		return kind{}, err
	}
	validator, _, err := validation.NewSchemaValidator(open)
	return kind{structural, validator, cel.NewValidator(structural, true, celconfig.PerCallLimit)}, err
}

// create does what the API server does before it stores an object, with fieldValidation=Strict.
func (k kind) create(object map[string]any) field.ErrorList {
	object = runtime.DeepCopyJSON(object)
	unknown := pruning.PruneWithOptions(object, k.structural, true, schema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})
	var errs field.ErrorList
	for _, path := range unknown {
		errs = append(errs, field.Invalid(field.NewPath(path), nil, "unknown field"))
	}
	defaulting.PruneNonNullableNullsWithoutDefaults(object, k.structural)
	defaulting.Default(object, k.structural)
	errs = append(errs, validation.ValidateCustomResource(nil, object, k.schema)...)
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, k.structural, object)...)
	rules, _ := k.rules.Validate(context.Background(), nil, k.structural, object, nil, celconfig.RuntimeCELCostBudget)
	return append(errs, rules...)
}
