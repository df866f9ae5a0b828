package difyexec;

import com.fasterxml.jackson.databind.*;

import module java.base;

import static java.util.stream.Collectors.joining;

/// The variables of the simulated app's Start node, and how Dify treats the inputs of a run: the first variable, in
/// the form's order, with an invalid value refuses the run; files are checked last; undeclared inputs are
/// dropped. Written from the recordings, and apart from the client's own rules: sharing them would prove nothing.
///
/// @param worker true for the rules from 1.14.2 on, false for those of 1.9.2
record SimulatedForm(List<Variable> variables, boolean worker, SimulatedFiles files) {
    private static final ObjectMapper JSON = new ObjectMapper();

    /// One variable of the form; `node` has the rest of its keys.
    record Variable(String type, String name, boolean required, JsonNode node) {
        static Variable of(Map.Entry<String, JsonNode> field) {
            var node = field.getValue();
            return new Variable(field.getKey(), node.path("variable").asText(), node.path("required").asBoolean(),
                    node);
        }

        List<String> strings(String key) {
            return node.path(key).valueStream().map(JsonNode::asText).toList();
        }

        /// 0 for no limit.
        int longest() {
            return node.path("max_length").asInt(0);
        }
    }

    /// The server refuses these inputs. `broken`: it crashes on them, so that a plain answer is a 500 without the
    /// message.
    static final class Refusal extends RuntimeException {
        final boolean broken;

        private Refusal(String message, boolean broken) {
            super(message, null, false, false);
            this.broken = broken;
        }
    }

    static Refusal refusal(String message) {
        return new Refusal(message, false);
    }

    /// @param form `user_input_form` as in `/parameters`
    static SimulatedForm of(JsonNode form, boolean worker, SimulatedFiles files) {
        return new SimulatedForm(form.valueStream().flatMap(item -> item.properties().stream()).map(Variable::of)
                .toList(), worker, files);
    }

    /// The inputs that the run gets. Throws a [Refusal].
    Map<String, Object> taken(Map<?, ?> inputs, String user) {
        var taken = new LinkedHashMap<String, Object>();
        for (var variable : variables) taken.put(variable.name(), checked(variable, inputs.get(variable.name())));
        for (var variable : variables)
            taken.computeIfPresent(variable.name(), (_, value) -> built(variable, value, user));
        var objects = variables.stream().filter(variable -> !List.of("file", "json_object").contains(variable.type()))
                .map(Variable::name).filter(name -> taken.get(name) instanceof Map).toList();
        if (!objects.isEmpty()) throw refusal("Invalid input type for " + python(objects));
        taken.replaceAll((_, value) -> value instanceof String text ? text.replace("\0", "") : value);
        return taken;
    }

    private Object checked(Variable variable, Object given) {
        if (given == null && variable.required()) throw refusal(variable.name() + " is required in input form");
        var value = given == null && worker ? JSON.convertValue(variable.node().path("default"), Object.class) : given;
        if (value == null) return null;
        return switch (variable.type()) {
            case "text-input", "paragraph" -> text(variable, value);
            case "select" -> option(variable, value);
            case "number" -> number(variable, value);
            case "checkbox" -> worker ? yesOrNo(value) : bool(variable, value);
            case "file" -> file(variable, value);
            case "file-list" -> fileList(variable, value);
            case "json_object" -> object(variable, value);
            case "external_data_tool" -> throw new Refusal("this statement should be unreachable.", true);
            default -> value;
        };
    }

    private static RuntimeException wrong(Variable variable, String what) {
        return refusal(variable.name() + " in input form must be " + what);
    }

    private static String text(Variable variable, Object value) {
        if (!(value instanceof String text))
            throw refusal("(type '" + variable.type() + "') " + variable.name() + " in input form must be a string");
        if (variable.longest() > 0 && text.codePointCount(0, text.length()) > variable.longest())
            throw wrong(variable, "less than " + variable.longest() + " characters");
        return text;
    }

    private static String option(Variable variable, Object value) {
        var text = text(variable, value);
        var options = variable.strings("options");
        if (!options.contains(text)) throw wrong(variable, "one of the following: " + python(options));
        return text;
    }

    private static Object number(Variable variable, Object value) {
        if (value instanceof Number || value instanceof Boolean) return value;
        if (!(value instanceof String text)) throw new Refusal("expected value type int, float or str, got <class '"
                + (value instanceof Map ? "dict" : "list") + "'>, value: " + python(value), true);
        var digits = text.strip().codePoints().map(c -> Character.digit(c, 10) < 0 ? c : '0' + Character.digit(c, 10))
                .collect(StringBuilder::new, StringBuilder::appendCodePoint, StringBuilder::append).toString();
        if (digits.isEmpty()) return null;
        if (digits.matches("[+-]?\\d+(_\\d+)*")) return new BigInteger(digits.replaceAll("[_+]", ""));
        if (digits.contains(".") && digits.matches("[+-]?(\\d[\\d_]*\\.?\\d*|\\.\\d+)([eE][+-]?\\d+)?"))
            return Double.parseDouble(digits.replace("_", ""));
        throw wrong(variable, "a valid number");
    }

    private static Object bool(Variable variable, Object value) {
        if (value instanceof Boolean) return value;
        throw wrong(variable, "a valid boolean value");
    }

    /// 1.14.2 converts text that looks like yes or no, and passes everything else unchanged.
    private static Object yesOrNo(Object value) {
        if (value instanceof Number number && number.doubleValue() == 1) return true;
        if (value instanceof Number number && number.doubleValue() == 0) return false;
        var word = value instanceof String text ? text.strip().toLowerCase(Locale.ROOT) : "";
        if (List.of("true", "1", "yes", "on").contains(word)) return true;
        return List.of("false", "0", "no", "off").contains(word) ? (Object) false : value;
    }

    private Object object(Variable variable, Object value) {
        boolean empty = value.equals("") || value instanceof Collection<?> list && list.isEmpty();
        if (!empty && !(value instanceof Map)) throw wrong(variable, "a dict");
        return value;
    }

    private Object file(Variable variable, Object value) {
        if (value.equals("") && worker && !variable.required()) return null;
        if (!(value instanceof Map)) throw wrong(variable, "a file");
        return value;
    }

    private Object fileList(Variable variable, Object value) {
        if (value.equals("") && worker && !variable.required()) return null;
        if (!(value instanceof Collection<?> list) || !list.stream().allMatch(Map.class::isInstance))
            throw wrong(variable, "a list of files");
        if (variable.longest() > 0 && list.size() > variable.longest())
            throw wrong(variable, "less than " + variable.longest() + " files");
        return list;
    }

    private Object built(Variable variable, Object value, String user) {
        return switch (variable.type()) {
            case "file" -> files.one(variable, (Map<?, ?>) value, user, worker);
            case "file-list" -> files.many(variable, (Collection<?>) value, user, worker);
            default -> value;
        };
    }

    /// The error of the Start node for an object with a schema: the run fails at it. Supports only flat schemas like
    /// `{"properties":{"k":{"type":"string"}}}`.
    Optional<String> mismatch(Map<String, Object> taken) {
        for (var variable : variables) {
            if (!(taken.get(variable.name()) instanceof Map<?, ?> object)) continue;
            var schema = variable.node().path("json_schema");
            var properties = (schema.isTextual() ? read(schema.asText()) : schema).path("properties");
            for (var property : properties.properties()) {
                var value = object.get(property.getKey());
                boolean text = property.getValue().path("type").asText().equals("string");
                if (text && value != null && !(value instanceof String)) return Optional.of("JSON object for '"
                            + variable.name() + "' does not match schema: " + python(value)
                            + " is not of type 'string'");
            }
        }
        return Optional.empty();
    }

    private static JsonNode read(String json) {
        try {
            return JSON.readTree(json);
        } catch (IOException problem) {
            throw new UncheckedIOException(problem);
        }
    }

    /// A value as Python prints it: `['a', 1]`.
    static String python(Object value) {
        return switch (value) {
            case null -> "None";
            case Boolean truth -> truth ? "True" : "False";
            case String text -> "'" + text + "'";
            case Collection<?> list -> list.stream().map(SimulatedForm::python).collect(joining(", ", "[", "]"));
            case Map<?, ?> map -> map.entrySet().stream()
                    .map(each -> python(each.getKey()) + ": " + python(each.getValue()))
                    .collect(joining(", ", "{", "}"));
            default -> value.toString();
        };
    }
}
