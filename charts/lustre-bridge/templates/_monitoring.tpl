{{- /* Refuses what the cluster has no definition of, before anything is installed. */ -}}
{{- define "lustre-bridge.needs" -}}
{{- if not (.top.Capabilities.APIVersions.Has (printf "monitoring.coreos.com/v1/%s" .kind)) -}}
{{- fail (printf "%s is true, and this cluster knows no %s: install the Prometheus operator first, or leave it false (for `helm template`, say --api-versions monitoring.coreos.com/v1/%s)" .value .kind .kind) -}}
{{- end -}}
{{- end -}}
