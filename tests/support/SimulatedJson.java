package difyexec;

import module java.base;

import static java.util.stream.Collectors.joining;

/// One of the three ways in which Dify writes JSON.
record SimulatedJson(String comma, String colon, boolean ascii, boolean slashes) {
    /// Answers of blocking runs, and JSON that is kept as text: `{"a": "\u3042 1/2"}`.
    static final SimulatedJson SPACED = new SimulatedJson(", ", ": ", true, false);
    /// All other answers: `{"a":"\u3042 1\/2"}`.
    static final SimulatedJson ESCAPED = new SimulatedJson(",", ":", true, true);
    /// The lines of a stream: `{"a":"あ 1/2"}`.
    static final SimulatedJson COMPACT = new SimulatedJson(",", ":", false, false);

    String json(Object value) {
        return switch (value) {
            case null -> "null";
            case String text -> quoted(text);
            case Map<?, ?> map -> map.entrySet().stream()
                    .map(entry -> quoted(entry.getKey().toString()) + colon + json(entry.getValue()))
                    .collect(joining(comma, "{", "}"));
            case Collection<?> values -> values.stream().map(this::json).collect(joining(comma, "[", "]"));
            case BigDecimal number -> number.toPlainString();
            default -> value.toString(); // whole numbers, true and false
        };
    }

    private String quoted(String text) {
        var quoted = new StringBuilder(text.length() + 16).append('"');
        text.chars().forEach(character -> escape((char) character, quoted));
        return quoted.append('"').toString();
    }

    private void escape(char character, StringBuilder to) {
        switch (character) {
            case '"', '\\' -> to.append('\\').append(character);
            case '/' -> to.append(slashes ? "\\/" : "/");
            case '\n' -> to.append("\\n");
            case '\r' -> to.append("\\r");
            case '\t' -> to.append("\\t");
            case '\b' -> to.append("\\b");
            case '\f' -> to.append("\\f");
            default -> {
                var escaped = character < ' ' || ascii && character > '~';
                to.append(escaped ? "\\u%04x".formatted((int) character) : character);
            }
        }
    }

    /// A JSON object from alternating keys and values; keeps their order, and null.
    static Map<String, Object> object(Object... keysAndValues) {
        var object = new LinkedHashMap<String, Object>();
        for (int key = 0; key < keysAndValues.length; key += 2)
            object.put((String) keysAndValues[key], keysAndValues[key + 1]);
        return object;
    }
}
