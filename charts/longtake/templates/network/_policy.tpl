{{/* Pieces of the network policies. Blocks of addresses are written here and nowhere else: none holds a link-local
     address, where clouds hand their credentials to whoever asks (169.254.169.254). */}}

{{/* Peers by address. Call with (list cidrs except). Kubernetes refuses an exception outside of its block, so only the
     block of all addresses has exceptions; the schema takes no other one that could hold a link-local address. */}}
{{- define "longtake.blocks" -}}
{{- $except := prepend (index . 1) "169.254.0.0/16" -}}
{{- $blocks := list -}}
{{- range index . 0 -}}
{{- $block := dict "cidr" . -}}
{{- if hasSuffix "/0" . }}{{ $_ := set $block "except" $except }}{{ end -}}
{{- $blocks = append $blocks (dict "ipBlock" $block) -}}
{{- end -}}
{{- toYaml $blocks -}}
{{- end }}

{{- define "longtake.ports" -}}
ports:
  {{- range . }}
  - {protocol: TCP, port: {{ . }}}
  {{- end }}
{{- end }}

{{/* Pods of a component of this release. Call with (list . "component" ...). */}}
{{- define "longtake.pods" -}}
matchLabels:
  app.kubernetes.io/name: longtake
  app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
matchExpressions:
  - {key: app.kubernetes.io/component, operator: In, values: {{ rest . | toJson }}}
{{- end }}

{{/* The pods that do the work, each kind with the name of its policy: Kubeflow's; the agent in which its drivers may run;
     a TrainJob's, which carry only their JobSet's label. */}}
{{- define "longtake.workers" -}}
pipeline:
  matchLabels:
    {{- toYaml .Values.networkPolicy.pipelinePods | nindent 4 }}
{{- if .Values.pipelines.kfp.driverPlugin.enabled }}
agent:
  matchLabels: {workflows.argoproj.io/component: agent}
{{- end }}
{{- if .Values.pipelines.trainJobs.enabled }}
trainjob:
  matchExpressions:
    - {key: jobset.sigs.k8s.io/jobset-name, operator: Exists}
{{- end }}
{{- end }}

{{/* The same as entries of a policy's `from`. */}}
{{- define "longtake.fromWorkers" -}}
{{- $peers := list -}}
{{- range include "longtake.workers" . | fromYaml -}}
{{- $peers = append $peers (dict "podSelector" .) -}}
{{- end -}}
{{- toYaml $peers -}}
{{- end }}

{{- define "longtake.toDns" -}}
- to:
    - namespaceSelector:
        matchLabels: {kubernetes.io/metadata.name: {{ .Values.networkPolicy.dns.namespace }}}
    {{- range .Values.networkPolicy.dns.cidrs }}
    - ipBlock: {cidr: {{ . }}}
    {{- end }}
  ports:
    {{- range .Values.networkPolicy.dns.ports }}
    - {protocol: UDP, port: {{ . }}}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
{{- end }}

{{- define "longtake.toMlflow" -}}
- to:
    - podSelector:
        {{- include "longtake.pods" (list . "mlflow") | nindent 8 }}
  {{- include "longtake.ports" (list 5000) | nindent 2 }}
{{- end }}

{{- define "longtake.toDatabase" -}}
- to:
    {{- if .Values.database.embedded.enabled }}
    - podSelector:
        {{- include "longtake.pods" (list . "postgresql") | nindent 8 }}
    {{- else }}
    {{- include "longtake.blocks" (list .Values.networkPolicy.externalCidrs list) | nindent 4 }}
    {{- end }}
  {{- include "longtake.ports" (list (include "longtake.databasePort" .)) | nindent 2 }}
{{- end }}

{{- define "longtake.toS3" -}}
- to:
    {{- if .Values.s3.embedded.enabled }}
    - podSelector:
        {{- include "longtake.pods" (list . "seaweedfs") | nindent 8 }}
    {{- else }}
    {{- include "longtake.blocks" (list .Values.networkPolicy.externalCidrs list) | nindent 4 }}
    {{- end }}
  {{- include "longtake.ports" (list (include "longtake.s3Port" .)) | nindent 2 }}
{{- end }}
