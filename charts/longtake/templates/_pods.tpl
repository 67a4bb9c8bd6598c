{{/* What every pod of the chart has in common: it passes the `restricted` pod security standard and sees no token. */}}

{{/* Pod-level fields. Call with (list . uid). */}}
{{- define "longtake.pod" -}}
automountServiceAccountToken: false
# A Service called longtake-mlflow would otherwise put LONGTAKE_MLFLOW_PORT into every container.
enableServiceLinks: false
{{- with (index . 0).Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ index . 1 }}
  runAsGroup: {{ index . 1 }}
  fsGroup: {{ index . 1 }}
  # Without it the kubelet walks a full volume on every start.
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "longtake.container" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{/* Image and pull policy. Call with an `image` of values.yaml. */}}
{{- define "longtake.image" -}}
image: {{ if .digest }}{{ printf "%s@%s" .repository .digest }}{{ else }}{{ printf "%s:%s" .repository .tag }}{{ end }}
imagePullPolicy: {{ .pullPolicy }}
{{- end }}

{{/* A pod in MLflow's image that runs one command and ends. Call with (list . "component" command env). */}}
{{- define "longtake.jobPod" -}}
{{- $ := index . 0 -}}
metadata:
  labels:
    {{- include "longtake.selector" (list $ (index . 1)) | nindent 4 }}
spec:
  {{- include "longtake.pod" (list $ 10001) | nindent 2 }}
  restartPolicy: {{ eq (index . 1) "check" | ternary "Never" "OnFailure" }}
  containers:
    - name: {{ index . 1 }}
      {{- include "longtake.image" $.Values.mlflow.image | nindent 6 }}
      command: {{ index . 2 | toJson }}
      env:
        - {name: HOME, value: /tmp}
        {{- index . 3 | nindent 8 }}
      {{- include "longtake.jobResources" . | nindent 6 }}
      {{- include "longtake.container" . | nindent 6 }}
      volumeMounts:
        {{- include "longtake.scriptMounts" . | nindent 8 }}
  volumes:
    {{- include "longtake.scriptVolumes" $ | nindent 4 }}
{{- end }}

{{/* A migration was seen to take 250 MiB. */}}
{{- define "longtake.jobResources" -}}
resources:
  requests: {cpu: 100m, memory: 512Mi}
  limits: {cpu: "1", memory: 1Gi}
{{- end }}

{{- define "longtake.scriptMounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: scripts, mountPath: /scripts, readOnly: true}
{{- end }}

{{- define "longtake.scriptVolumes" -}}
- name: tmp
  emptyDir: {sizeLimit: 2Gi}
- name: scripts
  configMap: {name: {{ include "longtake.fullname" . }}-scripts}
{{- end }}
