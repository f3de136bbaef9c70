{{/* The volumes of the pod: the report for the app, the sidecar's private state, and its token. */}}
{{- define "leasehold.volumes" -}}
- name: leasehold
  emptyDir:
    medium: Memory
    sizeLimit: 1Mi
- name: leasehold-state
  emptyDir:
    sizeLimit: 16Mi
- name: leasehold-token
  projected:
    sources:
      - serviceAccountToken:
          path: token
          expirationSeconds: 3607
      - configMap:
          name: kube-root-ca.crt
          items:
            - key: ca.crt
              path: ca.crt
      - downwardAPI:
          items:
            - path: namespace
              fieldRef:
                fieldPath: metadata.namespace
{{- end -}}

{{/*
For the app's container. Of the volume, the directory that the sidecar makes in it: the root of a volume in memory is
sticky and everybody's, and there the kernel (fs.protected_regular) refuses flock(1) the sidecar's files.
*/}}
{{- define "leasehold.appVolumeMounts" -}}
- name: leasehold
  mountPath: /run/leasehold
  subPath: leasehold
  readOnly: true
{{- end -}}

{{/* For the app's container. Never LEASEHOLD_PORT: a Service named leasehold would set it as well. */}}
{{- define "leasehold.appEnv" -}}
{{- $v := include "leasehold.values" . | fromYaml -}}
- name: LEASEHOLD_URL
  value: http://127.0.0.1:{{ $v.ports.app }}
- name: LEASEHOLD_FILE
  value: /run/leasehold/status.json
{{- if $v.compat.nais }}
- name: ELECTOR_PATH
  value: localhost:{{ $v.ports.app }}
- name: ELECTOR_GET_URL
  value: http://localhost:{{ $v.ports.app }}/
- name: ELECTOR_SSE_URL
  value: http://localhost:{{ $v.ports.app }}/sse
{{- end }}
{{- end -}}
