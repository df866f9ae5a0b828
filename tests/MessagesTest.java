package difyexec;

import com.sun.source.tree.*;
import com.sun.source.util.*;
import org.junit.jupiter.api.*;

import module java.base;

import static org.junit.jupiter.api.Assertions.*;

/// Finds every text of `DifyExec.java` that users can read: errors, notes, help. With `-Dmessages.print=true` it prints
/// them all for review.
final class MessagesTest {
    /// @param text with `…` for each part that is not a literal
    record Message(long line, String text) {}

    static final class Reader extends TreeScanner<Void, Void> {
        /// Their arguments are patterns, not messages.
        private static final Pattern OF_PATTERNS =
                Pattern.compile("compile|matches|replaceAll|replaceFirst|split|ofPattern|putIfAbsent");
        private static final Pattern TWO_WORDS = Pattern.compile("(?s).*[a-z][,;:.)\"']* \\(?\"?[A-Za-z]{2}.*");

        final List<Message> messages = new ArrayList<>();
        final List<String> hints = new ArrayList<>();
        /// The sentences that end a batch or a command, and problems of the input, which keep one from starting. Each
        /// has all that is shown with it: the sentence, its hint and its option.
        final SortedMap<String, String> stops = new TreeMap<>();
        private final CompilationUnitTree unit;
        private final Trees trees;

        Reader(String source) throws IOException {
            var task = MapTest.compiler(source);
            unit = task.parse().iterator().next();
            trees = Trees.instance(task);
            scan(unit, null);
        }

        /// Reads everything but the scripts of the pages.
        static Reader ofTool() throws IOException {
            var text = MapTest.source();
            return new Reader(text.substring(0, text.indexOf("    // ── Page ─")) + "}");
        }

        /// The last argument of a refusal is its hint. An exit code may come before its sentence.
        @Override
        public Void visitNewClass(NewClassTree tree, Void nothing) {
            var name = tree.getIdentifier().toString();
            var arguments = tree.getArguments();
            if (name.equals("Unusable") && arguments.size() > 1) hints.add(text(arguments.getLast()));
            if (name.matches("Unusable|Stop|TypeConversionException"))
                addStop(arguments.get(arguments.size() == 3 ? 1 : 0), arguments);
            if (name.equals("Value.Invalid") || name.equals("Invalid")) addStop(arguments.getFirst(), arguments);
            if (name.equals("Fault")) addStop(arguments.get(3), arguments);
            if (name.equals("Fault")) hints.add(text(arguments.get(4)));
            return super.visitNewClass(tree, nothing);
        }

        @Override
        public Void visitMethodInvocation(MethodInvocationTree call, Void nothing) {
            var name = call.getMethodSelect().toString().replaceFirst("(?s).*\\.", "");
            if (name.equals("early")) hints.add(text(call.getArguments().getLast()));
            var sentence = sentence(name, call.getArguments());
            sentence.ifPresent(argument -> addStop(argument, call.getArguments()));
            if (!OF_PATTERNS.matcher(name).matches()) return super.visitMethodInvocation(call, nothing);
            return scan(call.getMethodSelect(), nothing);
        }

        private void addStop(ExpressionTree sentence, List<? extends ExpressionTree> arguments) {
            var shown = arguments.stream().map(this::text).collect(Collectors.joining("\n"));
            stops.merge(text(sentence), shown, (one, other) -> one + "\n" + other);
        }

        /// Returns the argument of a call that is the sentence of a refusal or of a problem of the input.
        private static Optional<ExpressionTree> sentence(String method, List<? extends ExpressionTree> arguments) {
            var at = switch (method) {
                case "early" -> 0;
                case "stop", "setting" -> arguments.size() == 3 ? 1 : -1;
                case "fault" -> 1;
                case "unusable" -> 1; // after a line, and before a hint
                case "add" -> arguments.size() == 3 ? 2 : -1;
                default -> -1;
            };
            return at < 0 || at >= arguments.size() ? Optional.empty() : Optional.of(arguments.get(at));
        }

        @Override
        public Void visitLiteral(LiteralTree literal, Void nothing) {
            if (literal.getValue() instanceof String text) add(literal, text);
            return null;
        }

        @Override
        public Void visitBinary(BinaryTree sum, Void nothing) {
            if (sum.getKind() != Tree.Kind.PLUS) return super.visitBinary(sum, nothing);
            add(sum, text(sum));
            return null;
        }

        private String text(Tree part) {
            return switch (part) {
                case LiteralTree literal when literal.getValue() instanceof String text -> text;
                case BinaryTree sum when sum.getKind() == Tree.Kind.PLUS ->
                        text(sum.getLeftOperand()) + text(sum.getRightOperand());
                case ParenthesizedTree inner when inner.getExpression() instanceof BinaryTree sum -> text(sum);
                default -> {
                    scan(part, null); // it may contain messages
                    yield "…";
                }
            };
        }

        private void add(Tree tree, String text) {
            boolean isMarkup = text.contains("</") || text.contains("<!") || text.startsWith("<");
            if (!TWO_WORDS.matcher(text).matches() || isMarkup) return;
            var at = unit.getLineMap().getLineNumber(trees.getSourcePositions().getStartPosition(unit, tree));
            messages.add(new Message(at, text));
        }
    }

    @Nested
    class TheMessages {
        /// Finds the words that our guide to plain English counts.
        private static final Pattern DIALECT = Pattern.compile("(?i)\\b(told|tells?|telling|anew|whoever|whose run"
                + "|of which|begun|stands?|standing|has a success|without success|cannot be learnt|held against"
                + "|turn(ed|s) up|go(es)? on|by itself|what parts|is said to|was said|are said|no use for|please"
                + "|for whom|at work on|of itself|beside it lie|lie beside|the bracket|does not tell"
                + "|(is|are) no|keeps? to)\\b");
        private static final int MOST = 8;

        private static Reader source;

        @BeforeAll
        static void read() throws IOException {
            source = Reader.ofTool();
            if (Boolean.getBoolean("messages.print")) source.messages.forEach(message ->
                    IO.println(message.line() + ": " + message.text().strip().replace("\n", "\n      ")));
        }

        private static List<String> where(Predicate<String> isWrong) {
            return source.messages.stream().filter(message -> isWrong.test(message.text()))
                    .map(message -> message.line() + ": " + message.text()).toList();
        }

        @Test
        void areExtractedFromTheSource() {
            var texts = source.messages.stream().map(Message::text).collect(Collectors.joining("\n"));
            assertTrue(source.messages.size() > 300, () -> source.messages.size() + "");
            for (var known : List.of("Run pending rows, and failed rows again.", "choose another -o",
                    "All rows succeeded"))
                assertTrue(texts.contains(known), known);
        }

        @Test
        void usePlainWords() {
            var dialect = where(text -> DIALECT.matcher(text).find());

            assertTrue(dialect.size() <= MOST, () -> dialect.size() + "\n" + String.join("\n", dialect));
        }

        @Test
        void haveNoLineOver180Characters() {
            assertEquals(List.of(), where(text -> text.lines().anyMatch(line -> line.length() > 180)));
        }

        @Test
        void arePunctuatedConsistently() {
            assertEquals(List.of(), where(text -> Pattern.compile("[a-z]  [a-z]| [,.;:](?!\\w)|!( |$)|\\.\\.")
                    .matcher(text).find()));
            assertTrue(source.hints.size() > 60, () -> source.hints.size() + " hints");
            assertEquals(List.of(), source.hints.stream().filter(hint -> hint.endsWith(".")).toList());
            assertEquals(List.of(), where(text -> text.contains("hint:") && !text.equals("\nhint: …")));
        }
    }
}
