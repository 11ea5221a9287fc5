{{/* Names, labels, and the parts that several pods share. */}}
{{- define "driftline.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end }}

{{- define "driftline.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "driftline.name" . -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "driftline.selector" -}}
app.kubernetes.io/name: {{ include "driftline.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "driftline.labels" -}}
{{ include "driftline.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "driftline.serviceImage" -}}
{{- $repository := ternary .Values.gpu.repository .Values.image.repository .Values.gpu.enabled -}}
{{ printf "%s:%s" $repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}

{{- define "driftline.trainingImage" -}}
{{ printf "%s:%s" .Values.trainingImage.repository (default .Chart.AppVersion .Values.trainingImage.tag) }}
{{- end }}

{{/* What the schema says as well, in a sentence: a schema can be switched off. */}}
{{- define "driftline.check" -}}
{{- if not .Values.keys.existingSecret -}}
{{- fail "keys.existingSecret is empty: a service that others reach needs an API key. The chart's README says how to make one." -}}
{{- end -}}
{{- if eq .Values.mode "embedded" -}}
{{- if gt (int .Values.replicaCount) 1 -}}
{{- fail "replicaCount is above 1 in mode embedded: SQLite on one volume serves one pod. Set mode: distributed." -}}
{{- end -}}
{{- if gt (int .Values.worker.replicaCount) 1 -}}
{{- fail "worker.replicaCount is above 1 in mode embedded: one worker owns the volume. Set mode: distributed." -}}
{{- end -}}
{{- if ne .Values.autoscaling.by "none" -}}
{{- fail "autoscaling needs mode: distributed." -}}
{{- end -}}
{{- else -}}
{{- if not .Values.database.existingSecret -}}
{{- fail "mode distributed needs database.existingSecret: a Secret with the URL of a PostgreSQL." -}}
{{- end -}}
{{- if not .Values.objectStore.url -}}
{{- fail "mode distributed needs objectStore.url: pods share no disk." -}}
{{- end -}}
{{- if and (eq .Values.autoscaling.by "queue") (not .Values.autoscaling.prometheusAddress) -}}
{{- fail "autoscaling by queue needs autoscaling.prometheusAddress." -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "driftline.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "driftline.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Of every pod: the account, and where images come from. */}}
{{- define "driftline.podIdentity" -}}
{{- with .Values.serviceAccount.name }}
serviceAccountName: {{ . }}
{{- end }}
automountServiceAccountToken: {{ .Values.serviceAccount.automountToken }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Where the installation is: data folder, database, object store. Of every container. */}}
{{- define "driftline.homeEnv" -}}
- {name: DRIFTLINE_DATA_DIR, value: /data}
- {name: DRIFTLINE_LOG_FORMAT, value: json}
{{- if eq .Values.mode "distributed" }}
- name: DRIFTLINE_DATABASE_URL
  valueFrom:
    secretKeyRef: {name: {{ .Values.database.existingSecret }}, key: {{ .Values.database.key }}}
- {name: DRIFTLINE_ARTIFACTS_URL, value: {{ .Values.objectStore.url | quote }}}
{{- end }}
{{- range $name, $value := .Values.settings }}
- {name: DRIFTLINE_{{ upper $name }}, value: {{ kindIs "string" $value | ternary $value (toJson $value) | quote }}}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Libraries count the node's processors; these follow the container's limit. */}}
{{- define "driftline.threadsEnv" -}}
- name: DRIFTLINE_THREADS
  valueFrom: {resourceFieldRef: {resource: limits.cpu}}
- name: OMP_NUM_THREADS
  valueFrom: {resourceFieldRef: {resource: limits.cpu}}
{{- end }}

{{- define "driftline.storeEnvFrom" -}}
{{- if and (eq .Values.mode "distributed") .Values.objectStore.existingSecret }}
envFrom:
  - secretRef: {name: {{ .Values.objectStore.existingSecret }}}
{{- end }}
{{- end }}

{{/* The container that serves. */}}
{{- define "driftline.serviceContainer" -}}
name: service
image: {{ include "driftline.serviceImage" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args: [serve]
ports:
  - {name: http, containerPort: 8080}
env:
  {{- include "driftline.homeEnv" . | nindent 2 }}
  {{- include "driftline.threadsEnv" . | nindent 2 }}
  - {name: DRIFTLINE_HOST, value: "0.0.0.0"}
  - {name: DRIFTLINE_PORT, value: "8080"}
  - {name: DRIFTLINE_WORKER, value: "false"}
  - {name: DRIFTLINE_SHUTDOWN_SECONDS, value: {{ .Values.shutdown.requestSeconds | quote }}}
  {{- with .Values.cache.existingSecret }}
  - name: DRIFTLINE_CACHE_URL
    valueFrom:
      secretKeyRef: {name: {{ . }}, key: {{ $.Values.cache.urlKey }}}
  - name: DRIFTLINE_CACHE_SALT
    valueFrom:
      secretKeyRef: {name: {{ . }}, key: {{ $.Values.cache.saltKey }}}
  {{- end }}
{{- include "driftline.storeEnvFrom" . }}
startupProbe:
  httpGet: {path: /readyz, port: http}
  periodSeconds: 2
  failureThreshold: {{ div (add .Values.probes.startupSeconds 1) 2 }}
  timeoutSeconds: 5
readinessProbe:
  httpGet: {path: /readyz, port: http}
  periodSeconds: {{ .Values.probes.periodSeconds }}
  failureThreshold: 2
  timeoutSeconds: 5
livenessProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: {{ mul .Values.probes.periodSeconds 2 }}
  failureThreshold: 3
  timeoutSeconds: 5
lifecycle:
  preStop:
    sleep: {seconds: {{ .Values.shutdown.preStopSeconds }}}
resources:
  {{- $resources := deepCopy .Values.resources }}
  {{- if .Values.gpu.enabled }}
  {{- $limits := set (default dict $resources.limits) .Values.gpu.resource .Values.gpu.count }}
  {{- $resources = set $resources "limits" $limits }}
  {{- end }}
  {{- toYaml $resources | nindent 2 }}
securityContext:
  {{- include "driftline.containerSecurity" . | nindent 2 }}
volumeMounts:
  - {name: data, mountPath: /data}
  - {name: tmp, mountPath: /tmp}
{{- end }}

{{/* The container that runs retrain jobs. */}}
{{- define "driftline.workerContainer" -}}
name: worker
image: {{ include "driftline.trainingImage" . }}
imagePullPolicy: {{ .Values.trainingImage.pullPolicy }}
args: [worker]
env:
  {{- include "driftline.homeEnv" . | nindent 2 }}
  {{- include "driftline.threadsEnv" . | nindent 2 }}
  {{- if eq .Values.mode "distributed" }}
  # The next pod under this name takes up the jobs that this one leaves.
  - name: DRIFTLINE_WORKER_ID
    valueFrom: {fieldRef: {fieldPath: metadata.name}}
  {{- end }}
{{- include "driftline.storeEnvFrom" . }}
resources:
  {{- toYaml .Values.worker.resources | nindent 2 }}
securityContext:
  {{- include "driftline.containerSecurity" . | nindent 2 }}
volumeMounts:
  - {name: data, mountPath: /data}
  - {name: tmp, mountPath: /tmp}
{{- end }}

{{/* The container that migrates, imports the image's backbone and registers keys; run again, it changes nothing. */}}
{{- define "driftline.prepareContainer" -}}
name: prepare
image: {{ include "driftline.serviceImage" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args:
  - prepare
  {{- range .Values.keys.entries }}
  - --key={{ .name }}:{{ join "+" .scopes }}=/keys/{{ .key }}
  {{- end }}
env:
  {{- include "driftline.homeEnv" . | nindent 2 }}
{{- include "driftline.storeEnvFrom" . }}
resources:
  requests: {cpu: 100m, memory: 512Mi}
  limits: {memory: 1Gi}
securityContext:
  {{- include "driftline.containerSecurity" . | nindent 2 }}
volumeMounts:
  - {name: data, mountPath: /data}
  - {name: tmp, mountPath: /tmp}
  - {name: keys, mountPath: /keys, readOnly: true}
{{- end }}

{{- define "driftline.keysVolume" -}}
name: keys
secret:
  secretName: {{ .Values.keys.existingSecret }}
  defaultMode: 0440
{{- end }}

{{/* Where pods of the service may run. */}}
{{- define "driftline.placement" -}}
{{- if and .Values.gpu.enabled .Values.gpu.runtimeClassName }}
runtimeClassName: {{ .Values.gpu.runtimeClassName }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
