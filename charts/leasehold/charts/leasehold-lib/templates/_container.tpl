{{/*
The native sidecar: the last item of the pod's initContainers.
The pod needs automountServiceAccountToken: false, and leasehold.volumes.
*/}}
{{- define "leasehold.initContainer" -}}
{{- include "leasehold.validate" . -}}
{{- $v := include "leasehold.values" . | fromYaml -}}
- name: leasehold
  image: {{ include "leasehold.image" (dict "image" $v.image "tag" (include "leasehold.version" .)) | quote }}
  imagePullPolicy: {{ $v.image.pullPolicy }}
  restartPolicy: Always
  args:
    {{- include "leasehold.args" . | nindent 4 }}
  env:
    - name: POD_NAME
      valueFrom:
        fieldRef:
          fieldPath: metadata.name
    - name: POD_NAMESPACE
      valueFrom:
        fieldRef:
          fieldPath: metadata.namespace
    - name: POD_UID
      valueFrom:
        fieldRef:
          fieldPath: metadata.uid
    {{- if $v.members.enabled }}
    # Of which template the pod is, for the members to know who is of the newest.
    - name: POD_TEMPLATE_HASH
      valueFrom:
        fieldRef:
          fieldPath: metadata.labels['{{ include "leasehold.revisionLabel" . }}']
    {{- end }}
    {{- if include "leasehold.evidence" $v | contains "$(POD_IP)" }}
    - name: POD_IP
      valueFrom:
        fieldRef:
          fieldPath: status.podIP
    {{- end }}
    {{- with $v.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  ports:
    - name: leasehold
      containerPort: {{ $v.ports.probes }}
      protocol: TCP
  startupProbe:
    {{- include "leasehold.probe" (dict "v" $v "path" "/livez" "exec" "startup" "more" $v.startupProbe) | nindent 4 }}
  readinessProbe:
    {{- include "leasehold.probe" (dict "v" $v "path" "/readyz" "exec" "ready" "more" $v.readinessProbe) | nindent 4 }}
  {{- with $v.livenessProbe }}
  livenessProbe:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $v.resources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $v.securityContext }}
  securityContext:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  volumeMounts:
    # The sidecar makes its directory in the volume, and the app mounts that: see leasehold.appVolumeMounts.
    - name: leasehold
      mountPath: /run
    - name: leasehold-state
      mountPath: /var/lib/leasehold
    - name: leasehold-token
      mountPath: /var/run/secrets/kubernetes.io/serviceaccount
      readOnly: true
{{- end -}}

{{/* The flags of `leasehold run`. What is not given is left to its defaults, except the lease duration, for people to see. */}}
{{- define "leasehold.args" -}}
{{- $v := include "leasehold.values" . | fromYaml -}}
{{- $lease := $v.lease -}}
{{- $args := list "run" -}}
{{- if $lease.enabled -}}
{{- $args = concat $args (list (printf "--lease=%s" .lease) (printf "--lease-duration=%s" (include "leasehold.duration" .))) -}}
{{- end -}}
{{- range $flag, $value := dict "renew-deadline" $lease.renewDeadline "renew-interval" $lease.renewInterval "retry-period" $lease.retryPeriod "answer-ttl" $lease.answerTTL "shutdown-grace" $v.shutdownGrace -}}
{{- with $value }}{{- $args = append $args (printf "--%s=%s" $flag .) }}{{- end -}}
{{- end -}}
{{- if $v.members.enabled -}}
{{- $args = append $args (printf "--member-of=%s" (include "leasehold.group" .)) -}}
{{- range $flag, $value := dict "member-lease-duration" $v.members.leaseDuration "member-renew-interval" $v.members.renewInterval -}}
{{- with $value }}{{- $args = append $args (printf "--%s=%s" $flag .) }}{{- end -}}
{{- end -}}
{{- range $key, $value := $v.members.annotations -}}
{{- $args = append $args (printf "--member-annotation=%s=%s" $key $value) -}}
{{- end -}}
{{- end -}}
{{- range include "leasehold.evidence" $v | splitList "\n" | compact -}}
{{- $args = append $args (printf "--app-alive=%s" .) -}}
{{- end -}}
{{- if ne $v.onSigterm "auto" }}{{- $args = append $args (printf "--on-sigterm=%s" $v.onSigterm) }}{{- end -}}
{{- if ne ($v.ports.app | int) 4040 }}{{- $args = append $args (printf "--listen=localhost:%d" ($v.ports.app | int)) }}{{- end -}}
{{- if ne ($v.ports.probes | int) 4041 }}{{- $args = append $args (printf "--probe-listen=[::]:%d" ($v.ports.probes | int)) }}{{- end -}}
{{- if $v.role.label }}{{- $args = append $args "--role-label" }}{{- end -}}
{{- if not $v.events.enabled }}{{- $args = append $args "--events=off" }}{{- end -}}
{{- if ne $v.logLevel "info" }}{{- $args = append $args (printf "--log-level=%s" $v.logLevel) }}{{- end -}}
{{- concat $args ($v.extraArgs | default list) | toYaml -}}
{{- end -}}

{{/* app.alive, a string or a list, one a line. */}}
{{- define "leasehold.evidence" -}}
{{- $alive := (.app | default dict).alive | default list -}}
{{- if kindIs "string" $alive }}{{ $alive }}{{ else }}{{ join "\n" $alive }}{{ end -}}
{{- end -}}

{{- define "leasehold.probe" -}}
{{- if eq .v.probes.type "exec" -}}
exec:
  command: [/leasehold, probe, {{ .exec }}{{ if ne (.v.ports.probes | int) 4041 }}, "--probe-listen=[::]:{{ .v.ports.probes }}"{{ end }}]
{{- else -}}
httpGet:
  path: {{ .path }}
  port: leasehold
{{- end }}
{{- with .more }}
{{ toYaml . }}
{{- end }}
{{- end -}}
