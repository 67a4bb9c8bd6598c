{{/* Where the database and the S3 store are, and how a pod is told: addresses as text, keys by reference only. */}}

{{- define "longtake.databaseHost" -}}
{{- if .Values.database.embedded.enabled -}}{{ include "longtake.fullname" . }}-postgresql
{{- else -}}{{ .Values.database.external.host }}{{- end -}}
{{- end }}

{{- define "longtake.databasePort" -}}
{{- .Values.database.embedded.enabled | ternary 5432 .Values.database.external.port -}}
{{- end }}

{{- define "longtake.databaseSecret" -}}
{{- if .Values.database.embedded.enabled -}}
{{- .Values.database.embedded.existingSecret | default (printf "%s-postgresql" (include "longtake.fullname" .)) -}}
{{- else -}}{{ .Values.database.external.existingSecret }}{{- end -}}
{{- end }}

{{/* The address holds no password: libpq takes it from PGPASSWORD, so that neither logs nor `ps` can show it. */}}
{{- define "longtake.databaseEnv" -}}
{{- $external := .Values.database.external -}}
{{- $embedded := .Values.database.embedded.enabled -}}
- name: MLFLOW_BACKEND_STORE_URI
  value: postgresql+psycopg2://{{ $embedded | ternary "mlflow" $external.user }}@{{ include "longtake.databaseHost" . }}:
    {{- include "longtake.databasePort" . }}/{{ $embedded | ternary "mlflow" $external.name }}
- name: PGSSLMODE
  value: {{ $embedded | ternary "disable" $external.sslMode }}
- name: PGPASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ include "longtake.databaseSecret" . }}
      key: {{ $embedded | ternary "password" $external.passwordKey }}
{{- end }}

{{- define "longtake.s3Secret" -}}
{{- .Values.s3.existingSecret | default (printf "%s-s3" (include "longtake.fullname" .)) -}}
{{- end }}

{{/* With the namespace, because Kubeflow's own pods ask as well. */}}
{{- define "longtake.s3Endpoint" -}}
{{- if .Values.s3.embedded.enabled -}}
http://{{ include "longtake.fullname" . }}-seaweedfs.{{ .Release.Namespace }}.svc:8333
{{- else -}}{{ .Values.s3.external.endpoint }}{{- end -}}
{{- end }}

{{- define "longtake.s3Port" -}}
{{- $url := urlParse (include "longtake.s3Endpoint" .) -}}
{{- regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host) | default (eq $url.scheme "https" | ternary "443" "80") -}}
{{- end }}

{{- define "longtake.s3Keys" -}}
- name: AWS_ACCESS_KEY_ID
  valueFrom:
    secretKeyRef: {name: {{ include "longtake.s3Secret" . }}, key: AWS_ACCESS_KEY_ID}
- name: AWS_SECRET_ACCESS_KEY
  valueFrom:
    secretKeyRef: {name: {{ include "longtake.s3Secret" . }}, key: AWS_SECRET_ACCESS_KEY}
{{- end }}

{{- define "longtake.s3Env" -}}
- {name: MLFLOW_S3_ENDPOINT_URL, value: {{ include "longtake.s3Endpoint" . | quote }}}
- {name: AWS_DEFAULT_REGION, value: {{ .Values.s3.region | quote }}}
- {name: LONGTAKE_BUCKET, value: {{ .Values.s3.bucket | quote }}}
{{ include "longtake.s3Keys" . }}
{{- end }}

{{- define "longtake.mlflowUrl" -}}
http://{{ include "longtake.fullname" . }}-mlflow.{{ .Release.Namespace }}.svc:5000
{{- end }}

{{/* The value of a generated Secret's key: the one in the cluster, else a new one. Call with (list . "name" "key" length).
     `lookup` answers nothing to `helm template`, where each rendering has new values. */}}
{{- define "longtake.generated" -}}
{{- $ := index . 0 -}}
{{- $kept := dig "data" (index . 2) "" (lookup "v1" "Secret" $.Release.Namespace (index . 1) | default dict) -}}
{{- $kept | default (randAlphaNum (index . 3) | b64enc) -}}
{{- end }}
