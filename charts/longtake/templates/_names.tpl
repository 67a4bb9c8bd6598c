{{/* Names and labels. A release called `longtake` gives the names that pipelines/cluster.yaml has as defaults. */}}

{{- define "longtake.fullname" -}}
{{- .Values.fullnameOverride | default .Release.Name | replace "." "-" | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* Labels that never change, by which Services and policies find pods. Call with (list . "component"). */}}
{{- define "longtake.selector" -}}
app.kubernetes.io/name: longtake
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* All labels of an object. Call with (list . "component"). */}}
{{- define "longtake.labels" -}}
{{ include "longtake.selector" . }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
helm.sh/chart: longtake-{{ (index . 0).Chart.Version }}
{{- end }}

{{/* Kind, name and labels of an object. Call with (list . "component" "name"), the name without the release's. */}}
{{- define "longtake.metadata" -}}
metadata:
  name: {{ include "longtake.fullname" (index . 0) }}-{{ index . 2 }}
  namespace: {{ (index . 0).Release.Namespace }}
  labels:
    {{- include "longtake.labels" (list (index . 0) (index . 1)) | nindent 4 }}
{{- end }}

{{- define "longtake.serviceAccount" -}}{{ include "longtake.fullname" . }}-pipeline{{- end }}

{{- define "longtake.cacheClaim" -}}
{{- .Values.pipelines.cache.existingClaim | default (printf "%s-cache" (include "longtake.fullname" .)) -}}
{{- end }}
