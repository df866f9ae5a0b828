package difyexec;

import com.fasterxml.jackson.core.*;
import com.fasterxml.jackson.databind.*;
import de.siegmar.fastcsv.reader.*;
import difyexec.Fuzz.*;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.Fuzz.*;

/// Tables of text. FastCSV in its strict mode is the oracle of a CSV, and a small parser of RFC 8259 that of JSON.
///
/// Rules of docs/inputs.md that the oracle does not have are applied to what it reads: blank rows are skipped, spaces
/// around names are removed, columns without a name or with the same name are not sent, each row has as many cells
/// as the header, and no row repeats it.
final class FuzzedTables {
    /// A row as it must be read: its line, and its cells by name.
    record Line(long line, Map<String, String> cells) {}

    /// What an oracle read: the rows, or the line of the first fault (0 if it has none).
    record Table(List<Line> rows, Optional<Long> fault, String why) {
        static Table faulty(long line, String why) {
            return new Table(List.of(), Optional.of(line), why);
        }
    }

    /// What the tool read: the rows, or its message.
    record Seen(List<Line> rows, Optional<String> refusal) {
        /// Reads a table, numbering its rows. The only place that knows the tool's classes.
        static Seen of(Path file, Csv.Shape shape) {
            try (var csv = Csv.open(file, shape)) {
                return new Seen(Given.rows(csv).stream().map(row -> new Line(row.line(), row.inputs())).toList(),
                        Optional.empty());
            } catch (Unusable problem) {
                return new Seen(List.of(), Optional.of(problem.getMessage()));
            }
        }
    }

    static Csv.Shape shape(Character delimiter, Integer headerRow) {
        return new Csv.Shape(Csv.NUMBERS, null, new Csv.Table(delimiter, null, null, List.of()), "", headerRow, null, "",
                new Csv.Names(Map.of(), Map.of(), ""));
    }

    /// A refusal must name the file, and the line that the oracle found.
    private static Result result(Table wanted, Seen seen, Path file, byte[] input) {
        var detail = shown(input);
        if (seen.refusal.isPresent()) {
            var message = seen.refusal.get();
            if (!message.startsWith(file.toString())) return new Result.Different("no place", message + ", " + detail);
            if (wanted.fault.isEmpty()) return new Result.Different("refused, and the oracle reads it: "
                    + message.replace(file.toString(), "").replaceAll("\\d+|\"[^\"]*\"", "N").lines().findFirst()
                            .orElse(""), message + ", " + detail);
            boolean hasLine = wanted.fault.get() == 0 || hasUnclearLines(input)
                    || Pattern.compile("(:|line |item )" + wanted.fault.get() + "\\b").matcher(message).find();
            return hasLine ? new Result.Refused(message) : new Result.Different("another line than that of: "
                    + wanted.why, wanted.fault.get() + ", but: " + message + ", " + detail);
        }
        if (wanted.fault.isPresent())
            return new Result.Different("read, and the oracle refuses it: " + wanted.why, detail);
        boolean isSame = hasUnclearLines(input) ? cells(seen.rows).equals(cells(wanted.rows))
                : seen.rows.equals(wanted.rows);
        if (!isSame) return new Result.Different("other rows",
                seen.rows + " instead of " + wanted.rows + ", " + detail);
        return new Result.Read();
    }

    private static List<Map<String, String>> cells(List<Line> rows) {
        return rows.stream().map(Line::cells).toList();
    }

    /// FastCSV counts a CR and a later LF within one cell as one line.
    private static boolean hasUnclearLines(byte[] input) {
        var text = decoded(input).orElse("");
        return text.contains("\n") && Pattern.compile("\r(?!\n)").matcher(text).find();
    }

    /// A column without a name is not sent, and neither are those with the same name.
    private static boolean isSent(String name, List<String> names) {
        return !name.isEmpty() && Collections.frequency(names, name) == 1;
    }

    /// Half of a surrogate pair is no character, and cannot be sent.
    private static String wellFormed(String text) {
        return new String(text.getBytes(StandardCharsets.UTF_16), StandardCharsets.UTF_16);
    }

    // ── CSV ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    static final class OfCsv implements Target {
        private static final List<String> PIECES = List.of(",", ";", "\t", "\"", "\"\"", "\n", "\r\n", "\r", " ", "a",
                "x y", "é", "😀", "0", "1,5", "=1+1", "\u0000", "\uFEFF", "'", "\\", "\u00A0", "\u2028", "sep=;");

        @Override
        public String name() {
            return "csv";
        }

        @Override
        public byte[] make(SplittableRandom random) {
            var delimiter = oneOf(random, List.of(",", ",", ",", ";", "\t"));
            var text = new StringBuilder();
            if (chance(random, 10)) text.append('\uFEFF');
            if (chance(random, 5)) text.append("sep=").append(delimiter).append('\n');
            int columns = 1 + random.nextInt(4);
            text.append(String.join(delimiter, List.of("a", "b", "c", "d").subList(0, columns)));
            var lineBreak = oneOf(random, List.of("\n", "\r\n", "\r"));
            for (int row = random.nextInt(9); row > 0; row--) {
                text.append(chance(random, 95) ? lineBreak : "\n");
                text.append(Stream.generate(() -> cell(random, delimiter)).limit(columns)
                        .collect(Collectors.joining(delimiter)));
            }
            if (chance(random, 70)) text.append(lineBreak);
            if (chance(random, 15)) text.append(pieces(random, PIECES, 30));
            var made = chance(random, 50) ? text.toString() : damaged(random, text.toString(), PIECES);
            var bytes = encoded(random, made);
            return chance(random, 95) ? bytes : damaged(random, bytes);
        }

        private static String cell(SplittableRandom random, String delimiter) {
            var cell = pieces(random, PIECES, 1 + random.nextInt(4));
            boolean isPlain = !cell.contains(delimiter) && !cell.matches("(?s).*[\"\r\n].*");
            return isPlain && chance(random, 80) ? cell : '"' + cell.replace("\"", "\"\"") + '"';
        }

        @Override
        public Result compare(byte[] input, Path folder, SplittableRandom random) throws IOException {
            var file = Files.write(folder.resolve("input.csv"), input);
            var text = decoded(input).filter(valid -> valid.indexOf('\uFFFE') < 0);
            boolean isTyped = chance(random, 70) && !text.orElse("").matches("(?is)\uFEFF?\"?sep=.*");
            var shape = isTyped ? typed(text.orElse("")) : shape(null, null);
            var seen = Seen.of(file, shape);
            if (text.isEmpty()) return result(Table.faulty(0, "invalid bytes"), seen, file, input);
            if (isOther(text.get(), input)) return seen.refusal.isEmpty() ? new Result.Read()
                    : new Result.Refused(seen.refusal.get());
            return result(read(file, text.get(), shape), seen, file, input);
        }

        /// The options that leave no guess: the delimiter after the first name, and the first line as header.
        private static Csv.Shape typed(String text) {
            var plain = text.startsWith("\uFEFF") ? text.substring(1) : text;
            boolean isPlain = plain.length() > 1 && plain.startsWith("a");
            return shape(isPlain && ";\t".indexOf(plain.charAt(1)) >= 0 ? plain.charAt(1) : ',', 1);
        }

        /// Whether it is no CSV but JSON, a binary file or in an encoding of wide characters, by its first bytes.
        private static boolean isOther(String text, byte[] input) {
            return text.matches("(?s)\uFEFF?\\s*(\\[\\s*)?\\{.*|[^\0]{0,3}\0.*")
                    || input.length > 3 && input[0] == 'P' && input[1] == 'K';
        }

        /// Reads with the oracle. Without typed options, the tool's guesses of delimiter and header are taken.
        private static Table read(Path file, String text, Csv.Shape shape) {
            boolean isMarked = text.startsWith("\uFEFF");
            if (shape.table().delimiter() != null)
                return read(text.substring(isMarked ? 1 : 0), shape.table().delimiter(), 1, 1);
            try (var csv = Csv.open(file, shape)) {
                if (!csv.file().original().faults().isEmpty()) return Table.faulty(0, "a header that cannot be guessed");
                int skipped = csv.header().prefix().length();
                return read(text.substring(skipped), csv.header().delimiter(), csv.header().line(),
                        skipped > (isMarked ? 1 : 0) ? 2 : 1);
            } catch (Unusable _) {
                return Table.faulty(0, "a header that cannot be guessed");
            }
        }

        /// @param first the number of the first line, which is 2 after a line `sep=;`
        private static Table read(String text, char delimiter, long headerLine, int first) {
            var rows = new ArrayList<Line>();
            List<String> names = null;
            try {
                var records = CsvReader.builder().fieldSeparator(delimiter).skipEmptyLines(true)
                        .extraFieldStrategy(FieldMismatchStrategy.IGNORE)
                        .missingFieldStrategy(FieldMismatchStrategy.IGNORE).allowExtraCharsAfterClosingQuote(false)
                        .allowUnclosedQuote(false).ofCsvRecord(text);
                for (var record : records) {
                    long line = record.getStartingLineNumber() + first - 1;
                    var cells = record.getFields();
                    if (cells.stream().allMatch(String::isBlank) || line < headerLine) continue;
                    if (names == null && line > headerLine) return Table.faulty(0, "no column names");
                    if (names == null) {
                        names = cells.stream().map(String::strip).toList();
                        continue;
                    }
                    if (isHeader(names, cells)) return Table.faulty(line, "the column names again");
                    boolean isWhole = cells.size() <= names.size()
                            && names.subList(cells.size(), names.size()).stream().allMatch(String::isEmpty);
                    if (!isWhole) return Table.faulty(line, "another number of cells");
                    rows.add(new Line(line, row(names, cells, rows.size() + 1)));
                }
            } catch (CsvParseException problem) {
                return Table.faulty(0, "FastCSV: " + Stream.of(problem.getCause() == null ? problem
                        : problem.getCause()).map(Throwable::getMessage).findFirst().orElse("")
                        .replaceAll("\\d+", "N"));
            }
            return rows.isEmpty() ? Table.faulty(0, "no rows") : new Table(rows, Optional.empty(), "");
        }

        /// Whether a row has the names as its cells, and nothing in those of columns without a name, which it may lack.
        private static boolean isHeader(List<String> names, List<String> cells) {
            return cells.size() <= names.size() && IntStream.range(0, names.size()).allMatch(i -> names.get(i)
                    .equals(i < cells.size() ? cells.get(i).strip() : ""));
        }

        private static Map<String, String> row(List<String> names, List<String> cells, int number) {
            var row = new LinkedHashMap<String, String>();
            row.put(Csv.NUMBERS, "" + number);
            for (int i = 0; i < cells.size(); i++)
                if (isSent(names.get(i), names)) row.put(names.get(i), cells.get(i));
            return row;
        }
    }

    // ── JSON ────────────────────────────────────────────────────────────────────────────────────────────────────────

    static final class OfJson implements Target {
        private static final ObjectMapper JSON = new ObjectMapper(JsonFactory.builder()
                .streamReadConstraints(StreamReadConstraints.builder().maxNumberLength(1_000_000).build()).build())
                .enable(DeserializationFeature.USE_BIG_DECIMAL_FOR_FLOATS)
                .enable(DeserializationFeature.USE_BIG_INTEGER_FOR_INTS);
        /// Numbers may be written in another way, and texts without half a surrogate pair.
        private static final Comparator<JsonNode> SAME_NUMBERS = (a, b) -> {
            if (a.isNumber() && b.isNumber()) return a.decimalValue().compareTo(b.decimalValue());
            if (a.isTextual() && b.isTextual()) return wellFormed(a.textValue()).compareTo(b.textValue());
            return a.equals(b) ? 0 : 1;
        };
        private static final List<String> PIECES = List.of("{", "}", "[", "]", ":", ",", "\"", "\\", "\n", "\r\n", " ",
                "null", "true", "0", "-", "1e5", "1E999999", "1e99999999999", ".5", "00", "\\u00e9", "\\ud83d", "é", "😀",
                "NaN", "//", "\u0000", "\uFEFF", "'", "{\"a\":1}", "\u2028");
        private static final List<String> TEXTS = List.of("a", "x y", "é", "😀", "\"", "\\", "\n", "\t", "\u0001", "/", "1",
                "\uFFFD", "\u2028", "'", "{");

        @Override
        public String name() {
            return "json";
        }

        @Override
        public byte[] make(SplittableRandom random) {
            boolean isArray = chance(random, 40);
            var names = List.of("a", "b", "c d", "ü", "e.f");
            var rows = Stream.generate(() -> object(random, names.subList(0, 1 + random.nextInt(5)), 0))
                    .limit(1 + random.nextInt(6)).toList();
            var text = isArray ? "[" + String.join(oneOf(random, List.of(",", ", ", ",\n")), rows) + "]"
                    : String.join(oneOf(random, List.of("\n", "\r\n", "\n\n")), rows);
            if (chance(random, 10)) text = "\uFEFF" + text;
            if (chance(random, 3)) text = text.replaceFirst(":", ":" + "[".repeat(1_200));
            if (chance(random, 60)) text += "\n";
            var made = chance(random, 40) ? text : damaged(random, text, PIECES);
            var bytes = encoded(random, made);
            return chance(random, 97) ? bytes : damaged(random, bytes);
        }

        private static String object(SplittableRandom random, List<String> names, int depth) {
            return names.stream().map(name -> quoted(random, name) + space(random) + ":" + space(random)
                    + value(random, depth)).collect(Collectors.joining("," + space(random), "{", space(random) + "}"));
        }

        private static String space(SplittableRandom random) {
            return chance(random, 85) ? "" : oneOf(random, List.of(" ", "\t", "  "));
        }

        private static String value(SplittableRandom random, int depth) {
            return switch (random.nextInt(depth > 3 ? 7 : 9)) {
                case 0 -> "null";
                case 1 -> oneOf(random, List.of("true", "false"));
                case 2 -> "" + random.nextLong();
                case 3 -> oneOf(random, List.of("0", "1.10", "1e5", "-2.5E-3", "123456789012345678901234567890",
                        "0.1234567890123456789", "1E+400", "5e-324"));
                case 7 -> object(random, List.of("x", "y").subList(0, random.nextInt(3)), depth + 1);
                case 8 -> Stream.generate(() -> value(random, depth + 1)).limit(random.nextInt(4))
                        .collect(Collectors.joining(",", "[", "]"));
                default -> quoted(random, pieces(random, TEXTS, 4));
            };
        }

        /// A text in quotes, with the escapes that it needs and some others.
        private static String quoted(SplittableRandom random, String text) {
            var quoted = new StringBuilder("\"");
            for (char c : text.toCharArray()) {
                if (c == '"' || c == '\\') quoted.append('\\').append(c);
                else if (c < ' ' || chance(random, 10)) quoted.append("\\u%04x".formatted((int) c));
                else quoted.append(c);
            }
            return quoted.append('"').toString();
        }

        @Override
        public Result compare(byte[] input, Path folder, SplittableRandom random) throws IOException {
            var file = Files.write(folder.resolve("input.jsonl"), input);
            var seen = Seen.of(file, shape(null, null));
            var text = decoded(input);
            if (text.isEmpty() || text.get().indexOf('\uFFFE') >= 0)
                return result(Table.faulty(0, "invalid bytes"), seen, file, input);
            var wanted = read(text.get());
            if (seen.refusal.isEmpty() && wanted.fault.isEmpty()) return compareRows(wanted, seen, input);
            return result(wanted, seen, file, input);
        }

        /// Numbers and nested values are compared as values.
        private static Result compareRows(Table wanted, Seen seen, byte[] input) throws IOException {
            var left = seen.rows.iterator();
            for (var row : wanted.rows) {
                if (!left.hasNext()) return new Result.Different("fewer rows", shown(input));
                var cells = left.next().cells();
                for (var cell : row.cells().entrySet()) {
                    var text = cells.getOrDefault(cell.getKey(), "");
                    var problem = difference(cell.getValue(), text);
                    if (problem.isPresent()) return new Result.Different(problem.get(), cell.getKey() + ": " + text
                            + " instead of " + cell.getValue() + ", " + shown(input));
                }
            }
            return left.hasNext() ? new Result.Different("more rows", shown(input)) : new Result.Read();
        }

        /// @param wanted a mark of its kind, and the value
        private static Optional<String> difference(String wanted, String text) throws IOException {
            var value = wanted.substring(1);
            return switch (wanted.charAt(0)) {
                case 'n' -> number(value, text);
                case 'j' -> JSON.readTree(value).equals(SAME_NUMBERS, JSON.readTree(text)) ? Optional.empty()
                        : Optional.of("another nested value");
                default -> value.equals(text) ? Optional.empty() : Optional.of("another text");
            };
        }

        private static Optional<String> number(String literal, String text) {
            boolean isSame = text.matches("-?\\d+(\\.\\d+)?([eE][-+]?\\d+)?")
                    && new BigDecimal(literal).compareTo(new BigDecimal(text)) == 0;
            if (!isSame) return Optional.of("another number");
            if (text.matches(".*[eE].*") && !literal.matches(".*[eE][-+]?\\d{4,}"))
                return Optional.of("a number with an exponent");
            boolean isZero = literal.startsWith("-") && new BigDecimal(literal).signum() == 0; // its sign is lost
            return isZero || literal.matches(".*[eE].*") || literal.equals(text) ? Optional.empty()
                    : Optional.of("other digits of a number");
        }

        private static Table read(String text) {
            var plain = text.startsWith("\uFEFF") ? text.substring(1) : text;
            var parser = new Rfc8259(plain);
            try {
                var objects = new ArrayList<Map<String, String>>();
                parser.space();
                boolean isArray = parser.isAt('[');
                if (isArray) parser.take('[');
                for (parser.space(); !parser.isAtEnd() && !(isArray && parser.isAt(']')); parser.space()) {
                    if (isArray && !objects.isEmpty()) {
                        parser.take(',');
                        parser.space();
                    }
                    objects.add(parser.row());
                }
                if (isArray) parser.take(']');
                parser.space();
                if (!parser.isAtEnd()) throw new IllegalArgumentException("more text");
                return table(objects);
            } catch (IllegalArgumentException problem) {
                return Table.faulty(0, problem.getMessage());
            }
        }

        private static Table table(List<Map<String, String>> objects) {
            var names = objects.stream().flatMap(one -> one.keySet().stream()).distinct().map(String::strip).toList();
            if (names.stream().allMatch(String::isEmpty)) return Table.faulty(0, "no column names");
            var rows = new ArrayList<Line>();
            for (var object : objects) {
                var cells = new LinkedHashMap<String, String>();
                object.forEach((name, value) -> {
                    if (isSent(name.strip(), names)) cells.put(name.strip(), value);
                });
                boolean isBlank = object.values().stream().allMatch(value -> value.substring(1).isBlank());
                if (!isBlank) rows.add(new Line(0, cells));
            }
            return rows.isEmpty() ? Table.faulty(0, "no rows") : new Table(rows, Optional.empty(), "");
        }
    }

    /// A parser of JSON, written after RFC 8259 without any library. A value of a row begins with a mark: `s` for text,
    /// booleans and null, `n` for a number as it is written, `j` for a nested value as it is written.
    private static final class Rfc8259 {
        private static final Pattern NUMBER = Pattern.compile("-?(0|[1-9]\\d*)(\\.\\d+)?([eE][-+]?\\d+)?");
        private final String text;
        private int at = 0;

        Rfc8259(String text) {
            this.text = text;
        }

        boolean isAtEnd() {
            return at == text.length();
        }

        boolean isAt(char c) {
            return at < text.length() && text.charAt(at) == c;
        }

        void take(char c) {
            if (!isAt(c)) throw new IllegalArgumentException("no " + c);
            at++;
        }

        void space() {
            while (at < text.length() && " \t\r\n".indexOf(text.charAt(at)) >= 0) at++;
        }

        Map<String, String> row() {
            if (!isAt('{')) {
                value(0);
                throw new IllegalArgumentException("not an object");
            }
            return object(0);
        }

        private Map<String, String> object(int depth) {
            var object = new LinkedHashMap<String, String>();
            take('{');
            space();
            if (!isAt('}')) do {
                if (!object.isEmpty()) take(',');
                space();
                var name = string();
                if (!wellFormed(name).equals(name)) throw new IllegalArgumentException("half a character in a name");
                space();
                take(':');
                space();
                if (object.put(name, value(depth + 1)) != null) throw new IllegalArgumentException("duplicate key");
                space();
            } while (isAt(','));
            take('}');
            return object;
        }

        private String value(int depth) {
            if (depth > 999) throw new IllegalArgumentException("nested too deeply");
            int from = at;
            if (isAt('"')) return "s" + wellFormed(string());
            if (isAt('{')) {
                object(depth);
                return "j" + text.substring(from, at);
            }
            if (isAt('[')) {
                array(depth);
                return "j" + text.substring(from, at);
            }
            for (var word : List.of("true", "false", "null")) if (text.startsWith(word, at)) {
                at += word.length();
                return word.equals("null") ? "s" : "s" + word;
            }
            var number = NUMBER.matcher(text).region(at, text.length());
            if (!number.lookingAt()) throw new IllegalArgumentException("no value");
            if (number.group().matches(".*[eE][-+]?0*[1-9]\\d{9,}")) throw new IllegalArgumentException("a large exponent");
            at = number.end();
            return "n" + number.group();
        }

        private void array(int depth) {
            take('[');
            space();
            if (!isAt(']')) value(depth + 1);
            for (space(); isAt(','); space()) {
                take(',');
                space();
                value(depth + 1);
            }
            take(']');
        }

        private String string() {
            var string = new StringBuilder();
            take('"');
            while (!isAt('"')) {
                if (isAtEnd()) throw new IllegalArgumentException("no end of a text");
                char c = text.charAt(at++);
                if (c < ' ') throw new IllegalArgumentException("a control character in a text");
                string.append(c == '\\' ? escape() : c);
            }
            take('"');
            return string.toString();
        }

        private char escape() {
            if (isAtEnd()) throw new IllegalArgumentException("no end of a text");
            char c = text.charAt(at++);
            if (c == 'u') {
                var digits = text.substring(at, Math.min(text.length(), at + 4)).chars()
                        .mapToObj(digit -> String.valueOf((char) (digit & 0xFF))) // Jackson ignores the other bits
                        .collect(Collectors.joining());
                if (!digits.matches("[0-9a-fA-F]{4}")) throw new IllegalArgumentException("no escape");
                at += 4;
                return (char) Integer.parseInt(digits, 16);
            }
            int known = "\"\\/bfnrt".indexOf(c);
            if (known < 0) throw new IllegalArgumentException("no escape");
            return "\"\\/\b\f\n\r\t".charAt(known);
        }
    }
}
