{{- /* The specification of a pod that asks once. */ -}}
{{- define "lustre-bridge.check" -}}
{{- $image := .top.Values.image -}}
serviceAccountName: lustre-bridge-check
enableServiceLinks: false
restartPolicy: Never
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
containers:
- name: check
  image: {{ printf "%s/operator:%s" $image.registry ($image.tag | default .top.Chart.AppVersion) | quote }}
  imagePullPolicy: {{ $image.pullPolicy }}
  args:
  - --namespace={{ .top.Release.Namespace }}
  - {{ .command }}
  terminationMessagePolicy: FallbackToLogsOnError
  securityContext:
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities:
      drop: [ALL]
  {{- with .top.Values.operator.resources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- with .top.Values.operator.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .top.Values.operator.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
