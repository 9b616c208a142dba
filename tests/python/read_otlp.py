#!/usr/bin/env python3
"""Reads OTLP/JSON as its specification has it, with Google's parser of protobuf's JSON and OpenTelemetry's own messages.

Each line on standard input is an ExportTraceServiceRequest; each line on standard output has its spans. Fields that the messages do not
have are faults. The one difference to protobuf's JSON is that ids are hexadecimal: these are checked here, and given to the parser in the
base64 that it expects.
"""

import base64
import json
import re
import sys

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

DIGITS = {"traceId": 32, "spanId": 16, "parentSpanId": 16}


def with_base64(value):
    if isinstance(value, list):
        return [with_base64(item) for item in value]
    if not isinstance(value, dict):
        return value
    result = {}
    for name, item in value.items():
        if name in DIGITS:
            assert re.fullmatch(f"[0-9a-f]{{{DIGITS[name]}}}", item) and set(item) != {"0"}, (name, item)
            item = base64.b64encode(bytes.fromhex(item)).decode()
        result[name] = with_base64(item)
    return result


def attributes(entity):
    return {attribute.key: attribute.value.string_value for attribute in entity.attributes}


def spans(request):
    for of_resource in request.resource_spans:
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                yield {
                    "resource": attributes(of_resource.resource),
                    "scope": of_scope.scope.name,
                    "trace": span.trace_id.hex(),
                    "id": span.span_id.hex(),
                    "parent": span.parent_span_id.hex(),
                    "name": span.name,
                    "kind": Span.SpanKind.Name(span.kind),
                    "start": span.start_time_unix_nano,
                    "end": span.end_time_unix_nano,
                    "attributes": attributes(span),
                    "status": Status.StatusCode.Name(span.status.code),
                }


for line in sys.stdin:
    parsed = json_format.ParseDict(with_base64(json.loads(line)), ExportTraceServiceRequest())
    print(json.dumps(list(spans(parsed))), flush=True)
