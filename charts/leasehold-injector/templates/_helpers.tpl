{{/* Not the release's: all of it is there once in a cluster, and people bind the ClusterRoles by name. */}}
{{- define "leasehold-injector.name" -}}
{{- .Values.nameOverride | default "leasehold" -}}
{{- end }}

{{- define "leasehold-injector.labels" -}}
app.kubernetes.io/name: leasehold-injector
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | quote }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "leasehold-injector.image" -}}
{{- $image := .Values.sidecar.image -}}
{{- with $image.registry }}{{ . }}/{{ end }}{{ $image.repository }}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default .Chart.AppVersion }}{{ end -}}
{{- end }}

{{/* What an annotation may override, as a flat map of strings: the ConfigMap that the policies read. */}}
{{- define "leasehold-injector.settings" -}}
{{- $sidecar := .Values.sidecar -}}
{{- $requests := $sidecar.resources.requests | default dict -}}
{{- $limits := $sidecar.resources.limits | default dict -}}
image: {{ include "leasehold-injector.image" . | quote }}
imagePullPolicy: {{ $sidecar.image.pullPolicy | quote }}
imagePullSecrets: {{ join "," $sidecar.image.pullSecrets | quote }}
allowedImages: {{ join "," $sidecar.image.allowed | quote }}
timing: {{ $sidecar.timing | quote }}
alive: {{ $sidecar.alive | quote }}
position: {{ $sidecar.position | quote }}
probes: {{ $sidecar.probes | quote }}
roleLabel: {{ $sidecar.roleLabel | toString | quote }}
compat: {{ $sidecar.compat | quote }}
args: {{ join " " $sidecar.args | quote }}
cpuRequest: {{ $requests.cpu | default "" | toString | quote }}
memoryRequest: {{ $requests.memory | default "" | toString | quote }}
cpuLimit: {{ $limits.cpu | default "" | toString | quote }}
memoryLimit: {{ $limits.memory | default "" | toString | quote }}
{{- end }}

{{/* The pods that the policies look at; whose label is neither true nor false is told so. */}}
{{- define "leasehold-injector.match" -}}
{{- with .Values.injection.namespaceSelector -}}
namespaceSelector: {{ toJson . }}
{{ end -}}
resourceRules:
- {apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}
{{- end }}

{{/* The kubelet's image of a static pod: it runs already, as its file says. */}}
{{- define "leasehold-injector.notMirror" -}}
- name: no-mirror-pod
  expression: "!('kubernetes.io/config.mirror' in object.metadata.?annotations.orValue({}))"
{{- end }}

{{/*
Whether the request's user bears a role of ours, by a verb that only it grants. Nodes and components, which write the
most, are left out before anybody is asked.
*/}}
{{- define "leasehold-injector.bearer" -}}
(request.userInfo.username.startsWith('system:serviceaccount:') || !request.userInfo.username.startsWith('system:')) &&
authorizer.group('leasehold.dev').resource('candidates').namespace(request.namespace).check('{{ . }}').allowed()
{{- end }}
